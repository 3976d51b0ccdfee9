//! Clients that misuse their connections.

use onelane::web::ServeConfig;
use support::http::{self, Client};
use tokio::time::sleep;

use super::{Framework, MS, TestServer};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_sends_its_header_too_slowly_is_cut_off_and_others_are_not() {
    let server = TestServer::start(Framework::Axum, ServeConfig::new().header_timeout(Some(MS * 100))).await;
    let mut slow = Client::sending(server.address, "GET / HTTP/1.1\r\n").await;
    let mut other = Client::sending(server.address, http::get("/")).await;
    assert_eq!(other.response().await.text(), "hello");
    for _ in 0..6 {
        slow.send_what_fits(b"x-slow: 1\r\n").await;
        sleep(MS * 30).await;
    }
    assert_eq!(slow.rest().await, b"", "each byte does not begin the time anew");
    // An idle connection has no limit, and neither has a slow handler.
    other.send(http::get("/slow")).await;
    assert_eq!(other.response().await.text(), "slow");
    assert!(server.stop().await.0.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unused_connection_is_closed() {
    let server = TestServer::start(Framework::Axum, ServeConfig::new().first_byte_timeout(Some(MS * 50))).await;
    let mut unused = Client::connect(server.address).await;
    assert_eq!(unused.rest().await, b"");
    assert!(server.stop().await.0.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_over_the_limit_waits_until_another_one_is_closed() {
    let server = TestServer::start(Framework::Axum, ServeConfig::new().max_connections(2)).await;
    let mut open = [Client::connect(server.address).await, Client::connect(server.address).await];
    sleep(MS * 20).await;
    let mut third = Client::sending(server.address, http::get("/slow")).await;
    sleep(MS * 100).await;
    assert!(server.logged().is_empty(), "the third one is not accepted yet");
    open[0].disconnect(http::Disconnect::Fin).await;
    assert_eq!(third.response().await.text(), "slow");
    assert!(server.stop().await.0.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_carries_the_address_and_the_link_of_its_client() {
    let server = TestServer::start(Framework::Axum, ServeConfig::new()).await;
    let mut client = Client::sending(server.address, http::get("/who")).await;
    assert_eq!(client.response().await.text(), client.local_addr().to_string());
    assert!(server.stop().await.0.is_clean());
}
