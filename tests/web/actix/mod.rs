//! The actix-web adapter, on real servers, called over real sockets.

mod flight;
mod guard;
mod handlers;
mod http2;
mod keyed;
mod own_errors;
