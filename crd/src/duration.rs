//! Durations as people write them: `500ms`, `10s`, `5m`, `12h`, `7d`, `1h30m`.

use std::time::Duration;

/// The units, largest first: the order in which they may follow each other.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The longest duration that is taken, so that adding one to a clock cannot overflow.
const MAX: Duration = Duration::from_secs(3650 * 86_400);

/// Reads whole numbers with units, each unit once and the larger ones first. `None` if `text` is no such thing, or longer than ten years.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut units = UNITS.iter();
    let mut total_ms = 0_u64;
    let mut rest = text;
    loop {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let unit = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(unit);
        let (_, unit_ms) = units.find(|(name, _)| *name == unit)?;
        total_ms = number.parse::<u64>().ok()?.checked_mul(*unit_ms)?.checked_add(total_ms)?;
        if after.is_empty() {
            return Some(Duration::from_millis(total_ms)).filter(|total| *total <= MAX);
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_are_durations() {
        let check = |text, ms| assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
        check("0s", 0);
        check("500ms", 500);
        check("10s", 10_000);
        check("5m", 300_000);
        check("12h", 43_200_000);
        check("7d", 604_800_000);
        check("1h30m", 5_400_000);
        check("1d2h3m4s5ms", 93_784_005);
        check("90m", 5_400_000);
        check("3650d", 315_360_000_000);
    }

    #[test]
    fn anything_else_is_not() {
        let malformed =
            ["", "0", "60", "s", "m5", "10 s", " 10s", "10s ", "1.5h", "-1s", "+1s", "10S", "10min", "30m1h", "1h1h", "1s1", "é"];
        let too_long = ["3651d", "3650d1ms", "99999999999999999999s", "18446744073709551615d"];
        for text in malformed.into_iter().chain(too_long) {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
