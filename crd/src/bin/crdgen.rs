//! Prints the definitions of our objects as YAML; with `--write DIR` it writes one file each, which is how chart/crds is made.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: crdgen [--write DIR]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => print(),
        ["--write", dir] => write(Path::new(dir)),
        _ => {
            let _ = writeln!(std::io::stderr(), "{USAGE}");
            return ExitCode::from(64);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "crdgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for crd in kuik_crd::crds() {
        write!(out, "---\n{}", kuik_crd::crd_yaml(&crd))?;
    }
    out.flush()
}

fn write(dir: &Path) -> std::io::Result<()> {
    let explain = |path: &Path, error: std::io::Error| std::io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    std::fs::create_dir_all(dir).map_err(|error| explain(dir, error))?;
    for crd in kuik_crd::crds() {
        let name = crd.metadata.name.as_deref().expect("a definition must have a name");
        let path = dir.join(format!("{name}.yaml"));
        std::fs::write(&path, kuik_crd::crd_yaml(&crd)).map_err(|error| explain(&path, error))?;
    }
    Ok(())
}
