//! Text for people: sizes, ages, digests, tables. Pure.

use jiff::Timestamp;

const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// A size: `512 B`, `1.5 KiB`, `187.3 MiB`.
pub(super) fn size(bytes: u64) -> String {
    // In tenths of the unit, so that no floating point is needed; a size that rounds up to 1024.0 is the next unit's.
    let mut tenths = u128::from(bytes) * 10;
    let mut unit = None;
    for name in UNITS {
        if tenths < 10_240 {
            break;
        }
        tenths = (tenths + 512) / 1024;
        unit = Some(name);
    }
    match unit {
        None => format!("{bytes} B"),
        Some(unit) => format!("{}.{} {unit}", tenths / 10, tenths % 10),
    }
}

/// A size that may not be known.
pub(super) fn maybe_size(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-".to_owned(), size)
}

/// The time since `then`: `45s`, `3m`, `5h`, `12d`. A clock that ran ahead gives `0s`.
pub(super) fn age(then: Option<Timestamp>, now: Timestamp) -> String {
    let Some(then) = then else {
        return "-".to_owned();
    };
    match now.duration_since(then).as_secs().max(0) {
        seconds @ ..60 => format!("{seconds}s"),
        seconds @ ..3_600 => format!("{}m", seconds / 60),
        seconds @ ..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// The first twelve digits, enough to tell the blobs of a node apart.
pub(super) fn short(digest: &str) -> String {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    clean(&hex.chars().take(12).collect::<String>())
}

/// `yes` or `no`.
pub(super) fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// Text that others wrote, without what would move a terminal's cursor.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Rows in columns, each as wide as its widest cell.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!("{:width$}   ", clean(cell)));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `1 blob`, `2 blobs`.
pub(super) fn blobs(count: u64) -> String {
    format!("{count} blob{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_decimal_of_the_largest_unit() {
        let check = |bytes, text: &str| assert_eq!(size(bytes), text);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1.0 KiB");
        check(1536, "1.5 KiB");
        check(1024 * 1024 - 1, "1.0 MiB");
        check(196_400_000, "187.3 MiB");
        check(1 << 30, "1.0 GiB");
        check(u64::MAX, "16.0 EiB");
        assert_eq!(maybe_size(None), "-");
    }

    #[test]
    fn ages_have_one_unit() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let check = |seconds: i64, text: &str| assert_eq!(age(Some(Timestamp::from_second(1_000_000 - seconds).unwrap()), now), text);
        check(-5, "0s");
        check(0, "0s");
        check(59, "59s");
        check(60, "1m");
        check(3_599, "59m");
        check(3_600, "1h");
        check(172_799, "47h");
        check(172_800, "2d");
        assert_eq!(age(None, now), "-");
    }

    #[test]
    fn columns_are_aligned_and_lines_end_with_text() {
        let rows = [["A", "B", "C"], ["long cell", "é", ""], ["x", "\u{1b}[2J", "z"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "A           B      C\nlong cell   é\nx           \u{fffd}[2J   z\n");
    }

    #[test]
    fn digests_are_shortened() {
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short("odd"), "odd");
    }
}
