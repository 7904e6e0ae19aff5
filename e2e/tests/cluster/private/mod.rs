//! Private images: the asking namespace's own right, and nobody else's.
//!
//! Two registries keep them: one wants a name and a password, the other the token of a token server. Images are taken from the runtime's own
//! store before each pod, so that each is a pull.

pub(crate) mod cloud;
pub(crate) mod direct;
pub(crate) mod foreign;
pub(crate) mod none;
pub(crate) mod proofs;
pub(crate) mod rotation;
pub(crate) mod secrets;

mod ask;
mod doors;
mod tenant;
