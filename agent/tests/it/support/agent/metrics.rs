//! Reading the agent's metrics.

/// One scrape.
#[derive(Debug)]
pub(crate) struct Metrics(String);

impl Metrics {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }

    /// The sum over all series of a family that carry all these labels; 0 where there is none.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.0.lines().filter_map(|line| sample(line, name, labels)).sum()
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

fn sample(line: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let (series, value) = match rest.strip_prefix('{') {
        Some(rest) => rest.split_once("} ")?,
        None => ("", rest.strip_prefix(' ')?),
    };
    let carries = |(key, value): &(&str, &str)| series.split(',').any(|label| label == format!("{key}=\"{value}\""));
    if !labels.iter().all(carries) {
        return None;
    }
    value.split(' ').next()?.parse().ok()
}
