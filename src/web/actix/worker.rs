//! Checks that a task which must stay on this thread can be spawned.

use std::thread;

use actix_web::rt::System;

/// Returns `true` if [`rt::spawn`](actix_web::rt::spawn) works on this thread. On other threads it panics.
///
/// It works on the threads of actix-web's system and on a server's workers. The workers have no system if the server
/// was started in a `#[tokio::main]`. Only their name then distinguishes them from the threads of a bare tokio runtime,
/// such as that of a `#[tokio::test]`.
pub(super) fn can_spawn() -> bool {
    System::try_current().is_some()
        || thread::current().name().is_some_and(|name| name.starts_with("actix-server worker"))
}
