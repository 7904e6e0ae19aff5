//! Metrics of our programs, as far as tests and the benchmark read them.

use anyhow::{Context as _, Result, ensure};

use crate::http;

/// One look at all metrics of a program.
#[derive(Clone, Debug)]
pub struct Metrics {
    text: String,
}

impl Metrics {
    /// Asks for them at `url`.
    pub fn get(url: &str) -> Result<Self> {
        let reply = http::get(url)?;
        ensure!(reply.status == 200, "GET {url}: {}", reply.status);
        Ok(Self { text: String::from_utf8(reply.body).with_context(|| format!("the metrics at {url}"))? })
    }

    /// The sum of a metric over all its labels; `None` if there is none of this name.
    pub fn sum(&self, name: &str) -> Option<f64> {
        let values: Vec<f64> = self.of(name).map(|(_, value)| value).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// As [`Metrics::sum`], of a metric that must be there and counts something.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts here stay far below 2^53")]
    pub fn count(&self, name: &str) -> Result<u64> {
        let value = self.sum(name).with_context(|| format!("there is no metric {name}"))?;
        Ok(value.max(0.0) as u64)
    }

    /// The value of each set of labels, as they are written: `reason="budget"`.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.text.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(labelled) => labelled.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            Some((labels, value.parse().ok()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_their_labels_and_not_mistaken_for_longer_ones() {
        let text = "# TYPE a counter\na_total{x=\"1\"} 2\na_total{x=\"2\"} 3\na_total_more 7\nb 1.5\n".to_owned();
        let metrics = Metrics { text };
        assert_eq!(metrics.sum("a_total"), Some(5.0));
        assert_eq!(metrics.count("b").unwrap(), 1);
        assert_eq!(metrics.of("a_total").next(), Some(("x=\"1\"", 2.0)));
        assert_eq!(metrics.sum("a"), None);
    }
}
