//! The examples of servers that drain, run like a user runs them, with requests and signals.
#![cfg(unix)]

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use support::client::{RawClient, web_client};
use support::process::Example;

const HOLD: Duration = Duration::from_millis(300);

#[tokio::test]
async fn response_in_axum_comes_before_its_tasks_and_a_stop_waits_for_them() {
    response_comes_before_its_tasks_and_a_stop_waits_for_them("axum_background_tasks").await;
}

#[tokio::test]
async fn response_in_actix_comes_before_its_tasks_and_a_stop_waits_for_them() {
    response_comes_before_its_tasks_and_a_stop_waits_for_them("actix_background_tasks").await;
}

async fn response_comes_before_its_tasks_and_a_stop_waits_for_them(name: &str) {
    let mut example = Example::start(name, HOLD).await;
    let response = web_client().post(example.url("/sign-up")).send().await.expect("the server responds");
    assert_eq!(response.status(), 201);
    assert_eq!(example.printed(), "response 201", "the client has its answer first");
    example.wait_for_json("/running", "the tasks run", |running| *running == json!(["1 log", "1 mail"])).await;
    example.signal(Signal::TERM);
    assert_eq!(example.exit_code().await, Some(0));
    assert_eq!(example.texts(), ["response 201", "mail sent", "log written"]);
}

#[tokio::test]
async fn tasks_of_a_success_do_not_run_after_an_error() {
    let mut example = Example::start("axum_background_tasks", HOLD).await;
    let response = web_client().post(example.url("/fails")).send().await.expect("the server responds");
    assert_eq!(response.status(), 400);
    example.signal(Signal::TERM);
    assert_eq!(example.exit_code().await, Some(0));
    assert_eq!(example.texts(), ["response 400", "log written"]);
}

#[tokio::test]
async fn event_stream_and_websocket_end_in_order_on_sigterm() {
    let mut example = Example::start("axum_streams", HOLD / 10).await;
    let mut events = RawClient::send(example.address, "GET /events HTTP/1.1\r\nhost: test\r\n\r\n").await;
    events.read_until("data: 2").await;
    let upgrade = "GET /echo HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut socket = RawClient::send(example.address, upgrade).await;
    socket.read_until("101 Switching").await;
    example.wait_for_lines(2).await;
    example.signal(Signal::TERM);
    events.read_until("0\r\n\r\n").await;
    socket.read_until("the server stops").await;
    // The client's close frame, with the code 1001.
    socket.send_again([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9]).await;
    assert_eq!(example.exit_code().await, Some(0));
    assert_eq!(example.texts(), ["events begin", "socket opens", "socket closes"]);
}
