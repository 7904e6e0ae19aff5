//! What this machine is, in the words of the OCI image specification.

use std::env::consts;

/// The platform that this program was made for: `os/arch[/variant]`.
#[must_use]
pub fn own_platform() -> String {
    format!("{}/{}", os(consts::OS), architecture(consts::ARCH))
}

/// Rust's word for a system in the words of the specification, which are Go's.
fn os(name: &str) -> &str {
    match name {
        "macos" => "darwin",
        other => other,
    }
}

fn architecture(name: &str) -> &str {
    match name {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "arm" => "arm/v7",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        "mips64" if cfg!(target_endian = "little") => "mips64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_platform_is_in_the_words_of_the_specification() {
        assert_eq!(architecture("x86_64"), "amd64");
        assert_eq!(architecture("aarch64"), "arm64");
        assert_eq!(architecture("s390x"), "s390x");
        assert_eq!(os("linux"), "linux");
    }
}
