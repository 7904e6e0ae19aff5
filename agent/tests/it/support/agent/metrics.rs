//! Reading the agent's metrics.

/// The table of metrics in the agent's documentation.
const DOCUMENTED: &str = include_str!("../../../../../docs/AGENT.md");

/// One scrape.
#[derive(Debug)]
pub(crate) struct Metrics(String);

impl Metrics {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }

    /// The sum over all series of a family that carry all these labels; 0 where there is none.
    ///
    /// A family that the agent does not have would be 0 for ever: that panics. One with labels is written only once it has a series.
    #[track_caller]
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        assert!(self.has(name) || has_labels(name), "there is no metric {name}");
        self.0.lines().filter_map(|line| sample(line, name, labels)).sum()
    }

    fn has(&self, name: &str) -> bool {
        self.0.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).any(|family| family == family_of(name))
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

/// The family that a series of this name belongs to.
fn family_of(name: &str) -> &str {
    ["_total", "_count", "_sum", "_bucket"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

/// Whether the documentation says that the family has labels.
fn has_labels(name: &str) -> bool {
    let rows = DOCUMENTED.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    rows.into_iter().any(|(family, rest)| family_of(family) == family_of(name) && rest.starts_with('`'))
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
