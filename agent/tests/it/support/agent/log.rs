//! What the agent writes on its two outputs.

use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// The lines of all lives of an agent.
#[derive(Debug, Default)]
pub(super) struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    /// Where the present life begins.
    begin: usize,
}

impl Log {
    /// A new life begins.
    pub(super) fn begin(&mut self) {
        self.begin = self.lines.lock().unwrap().len();
    }

    pub(super) fn follow(&self, output: impl Read + Send + 'static) {
        let lines = Arc::clone(&self.lines);
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                lines.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
            }
        });
    }

    pub(super) fn text(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// The addresses in `{"message":"listening","registry":ADDR,"admin":ADDR,…}`, once it is written.
    pub(super) fn listening(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.lines.lock().unwrap()[self.begin..].iter().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let fields = line.get("fields").unwrap_or(&line);
            (fields["message"] == "listening").then_some(())?;
            let address = |key: &str| fields[key].as_str().and_then(|text| text.split(',').next()?.trim().parse().ok());
            Some((address("registry")?, address("admin")?))
        })
    }

    #[expect(clippy::print_stderr, reason = "the test harness shows it with the failed test, and only there")]
    pub(super) fn print(&self) {
        eprintln!("--- the agent's log\n{}\n---", self.text());
    }
}
