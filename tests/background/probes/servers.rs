//! Tests that each server gives the same responses: axum, actix-web, and the dedicated port.

use std::cell::OnceCell;
use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use onelane::background::{HostHandle, HostPhase, Supervision, service_fn};
use onelane::web;
use reqwest::{Method, Response};

use crate::probes::{PATHS, any_port, builder, steady, walk_through_the_phases};
use support::actix::Server;
use support::client::web_client;

/// A server that serves the probes, and its address.
struct ProbeEndpoint {
    base: String,
    /// Keeps an actix-web server running.
    _server: Option<Server>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ServerKind {
    Axum,
    AxumNested,
    Actix,
    ActixScope,
    OwnPort,
}

const KINDS: [ServerKind; 5] =
    [ServerKind::Axum, ServerKind::AxumNested, ServerKind::Actix, ServerKind::ActixScope, ServerKind::OwnPort];

impl ProbeEndpoint {
    async fn open(kind: ServerKind, handle: HostHandle) -> Self {
        match kind {
            ServerKind::Axum => {
                let app = Router::new().route("/", get(async || "the app")).with_state(());
                Self::at(serve(app.merge(web::axum::probes(handle))).await, "", None)
            }
            ServerKind::AxumNested => {
                // The router of an app with state, before the state is provided.
                let inner: Router<u8> = web::axum::probes(handle);
                Self::at(serve(Router::new().nest("/internal", inner).with_state(1)).await, "/internal", None)
            }
            ServerKind::Actix => {
                let server = Server::start(move |config| {
                    config.service(web::actix::probes(handle.clone()));
                    config.route("/", actix_web::web::get().to(async || "the app"));
                });
                Self::at(server.address, "", Some(server))
            }
            ServerKind::ActixScope => {
                let server = Server::start(move |config| {
                    config.service(actix_web::web::scope("/internal").service(web::actix::probes(handle.clone())));
                });
                Self::at(server.address, "/internal", Some(server))
            }
            ServerKind::OwnPort => Self::at(handle.probe_address().unwrap(), "", None),
        }
    }

    fn at(address: SocketAddr, prefix: &str, server: Option<Server>) -> Self {
        Self { base: format!("http://{address}{prefix}"), _server: server }
    }

    async fn send(&self, method: Method, path: &str) -> Response {
        web_client().request(method, format!("{}{path}", self.base)).send().await.unwrap()
    }

    async fn statuses(&self) -> [u16; 3] {
        let mut statuses = [0; 3];
        for (status, path) in statuses.iter_mut().zip(PATHS) {
            *status = self.send(Method::GET, path).await.status().as_u16();
        }
        statuses
    }
}

async fn serve(app: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, app).into_future());
    address
}

#[tokio::test]
async fn each_phase_has_its_statuses_on_each_server() {
    for supervision in [Supervision::OwnThread, Supervision::ServerRuntime] {
        for kind in KINDS {
            let endpoint = OnceCell::new();
            let check = async |phase, expected| {
                // The dedicated port is served only while the host runs.
                if kind != ServerKind::OwnPort || !matches!(phase, HostPhase::Built | HostPhase::Stopped) {
                    let endpoint: &ProbeEndpoint = endpoint.get().unwrap();
                    assert_eq!(endpoint.statuses().await, expected, "{kind:?}, {phase}, {supervision:?}");
                }
            };
            let builder = builder().supervision(supervision).probe_listener(any_port());
            let prepare = async |handle| drop(endpoint.set(ProbeEndpoint::open(kind, handle).await));
            walk_through_the_phases(builder, check, prepare).await;
        }
    }
}

#[tokio::test]
async fn each_server_sends_the_response_of_the_status_with_its_headers() {
    let unready = service_fn("a pool", |cx| async move {
        cx.not_ready("ça chauffe");
        cx.stopping().await;
        Ok(())
    });
    let host = builder().service(unready).service(steady("b")).probe_listener(any_port()).build().unwrap();
    host.start().await.unwrap();
    let handle = host.handle();
    support::client::eventually("the host is not ready", || !handle.status().is_ready()).await;
    for kind in KINDS {
        let endpoint = ProbeEndpoint::open(kind, handle.clone()).await;
        for path in PATHS {
            for query in ["", "?", "?verbose", "?verbose&exclude=a+pool&exclude=c", "?exclude=a%20pool"] {
                let target = format!("{path}{query}");
                let expected = handle.status().probe(&target).unwrap();
                let response = endpoint.send(Method::GET, &target).await;
                let what = format!("{kind:?} {target}");
                assert_eq!(response.status().as_u16(), expected.status(), "{what}");
                let headers = response.headers().clone();
                let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
                assert_eq!(header("content-type").unwrap(), "text/plain; charset=utf-8", "{what}");
                assert_eq!(header("cache-control").unwrap(), "no-store", "{what}");
                assert_eq!(header("x-content-type-options").unwrap(), "nosniff", "{what}");
                assert_eq!(header("content-length").unwrap(), expected.body().len().to_string(), "{what}");
                assert_eq!(response.text().await.unwrap(), expected.body(), "{what}");

                let head = endpoint.send(Method::HEAD, &target).await;
                assert_eq!(head.status().as_u16(), expected.status(), "{what}");
                let mut actual = head.headers().clone();
                let mut expected_headers = headers.clone();
                assert!(actual.remove("date").is_some() && expected_headers.remove("date").is_some(), "{what}");
                assert_eq!(actual, expected_headers, "{what}");
                assert_eq!(head.text().await.unwrap(), "", "{what}");
            }
        }
    }
}

#[tokio::test]
async fn other_paths_are_not_found_and_other_methods_not_allowed() {
    let host = builder().probe_listener(any_port()).build().unwrap();
    host.start().await.unwrap();
    for kind in KINDS {
        let endpoint = ProbeEndpoint::open(kind, host.handle()).await;
        for path in ["/healthz", "/livez/x", "/readyzz"] {
            for method in [Method::GET, Method::POST] {
                assert_eq!(endpoint.send(method, path).await.status(), 404, "{kind:?} {path}");
            }
        }
        for path in PATHS {
            for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::PATCH] {
                let response = endpoint.send(method.clone(), path).await;
                assert_eq!(response.status(), 405, "{kind:?} {method} {path}");
                assert_eq!(response.headers()["allow"], "GET,HEAD", "{kind:?} {method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn probes_do_not_affect_other_routes() {
    let host = builder().build().unwrap();
    for kind in [ServerKind::Axum, ServerKind::Actix] {
        let endpoint = ProbeEndpoint::open(kind, host.handle()).await;
        assert_eq!(endpoint.send(Method::GET, "/").await.text().await.unwrap(), "the app", "{kind:?}");
    }
}
