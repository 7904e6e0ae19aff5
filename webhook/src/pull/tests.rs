//! What pull tokens promise. Keys and plans run on a clock of numbers; the rest on a fake API server.

mod api;
mod keeper;
mod keys;
mod plan;
mod ring;
mod secret;

use std::time::Duration;

use kuik_crd::pull_token::PullSigner;

use crate::config::Auth;
use crate::naming::Names;

fn auth(token: u64, key: u64) -> Auth {
    Auth { token_lifetime: Duration::from_secs(token), key_lifetime: Duration::from_secs(key), ..Auth::default() }
}

fn signer() -> PullSigner {
    PullSigner::read(&PullSigner::generate().unwrap()).unwrap()
}

fn names() -> Names {
    crate::lifecycle::mock::names("webhook-1", "10.0.0.1")
}
