//! Sizes for people: `187Mi`, `1.53Gi`.

/// The binary units, smallest first: a `u64` holds less than 16 of the last.
const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// Bytes with three significant digits in a binary unit: `0`, `999`, `0.977Ki`, `1.5Gi`, `187Mi`. Kubernetes reads it as a quantity.
#[must_use]
pub fn human_size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    // 999.5 would be rounded to four digits.
    while value >= 999.5 {
        value /= 1024.0;
        unit = units.next();
    }
    let decimals = match value {
        _ if value >= 99.95 => 0,
        _ if value >= 9.995 => 1,
        _ if value >= 0.9995 || value == 0.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let text = if decimals > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", unit.expect("a u64 must be less than 999.5 of the last unit"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn three_digits_and_a_unit() {
        for (bytes, expected) in [
            (0, "0"),
            (7, "7"),
            (10, "10"),
            (100, "100"),
            (999, "999"),
            (1000, "0.977Ki"),
            (1023, "0.999Ki"),
            (1024, "1Ki"),
            (1536, "1.5Ki"),
            (10 << 10, "10Ki"),
            (100 << 10, "100Ki"),
            (999 << 10, "999Ki"),
            (1000 << 10, "0.977Mi"),
            (187 << 20, "187Mi"),
            (196_083_712, "187Mi"),
            (1_642_824_499, "1.53Gi"),
            (16_428_244_992, "15.3Gi"),
            (20 << 30, "20Gi"),
            (u64::MAX, "16Ei"),
        ] {
            assert_eq!(human_size(bytes), expected, "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_meant(bytes: u64) {
            let text = human_size(bytes);
            let number: String = text.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
            let power = UNITS.iter().position(|unit| *unit == &text[number.len()..]).unwrap();
            let read = number.parse::<f64>().unwrap() * 1024_f64.powi(i32::try_from(power).unwrap());
            prop_assert!((read - bytes as f64).abs() <= 0.0051 * bytes as f64, "{bytes} {text}");
            prop_assert!(number.chars().skip_while(|c| matches!(c, '0' | '.')).filter(char::is_ascii_digit).count() <= 3, "{bytes} {text}");
        }
    }
}
