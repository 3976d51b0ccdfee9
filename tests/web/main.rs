//! The web adapters: tower layers, axum and actix-web on real sockets.

mod actix;
mod axum;
mod handler_messages;
mod processes;
mod tower;
mod watch;
