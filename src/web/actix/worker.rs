//! Whether a task can be spawned on this thread that stays on it.

use std::thread;

use actix_web::rt::System;

/// Whether [`rt::spawn`](actix_web::rt::spawn) works here, which panics where it does not.
///
/// It does on the threads of actix-web's system, and on a server's workers, which have none if the server was started
/// in a `#[tokio::main]`. Then nothing but their name tells them from the threads of a bare tokio runtime, as in a
/// `#[tokio::test]`.
pub(super) fn can_spawn() -> bool {
    System::try_current().is_some()
        || thread::current().name().is_some_and(|name| name.starts_with("actix-server worker"))
}
