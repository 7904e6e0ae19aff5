//! The webhook's program: crypto provider, command line, exit code.

use std::process::ExitCode;

#[expect(clippy::print_stderr, reason = "the one line that a failure leaves")]
fn main() -> ExitCode {
    rustls::crypto::ring::default_provider().install_default().expect("the crypto provider must be installed once, and first");
    kuik_webhook::main(std::env::args_os()).unwrap_or_else(|failure| {
        eprintln!("kuik-webhook: {}", failure.line());
        ExitCode::from(failure.exit_code())
    })
}
