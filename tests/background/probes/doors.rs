//! The same answers through each door: axum, actix-web, and the port of their own.

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

/// What answers, and where.
struct Door {
    base: String,
    /// Those of actix-web end with their server.
    _server: Option<Server>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Axum,
    AxumNested,
    Actix,
    ActixScope,
    OwnPort,
}

const KINDS: [Kind; 5] = [Kind::Axum, Kind::AxumNested, Kind::Actix, Kind::ActixScope, Kind::OwnPort];

impl Door {
    async fn open(kind: Kind, handle: HostHandle) -> Self {
        match kind {
            Kind::Axum => {
                let app = Router::new().route("/", get(async || "the app")).with_state(());
                Self::at(serve(app.merge(web::axum::probes(handle))).await, "", None)
            }
            Kind::AxumNested => {
                // Of an app with a state, before it has it.
                let inner: Router<u8> = web::axum::probes(handle);
                Self::at(serve(Router::new().nest("/internal", inner).with_state(1)).await, "/internal", None)
            }
            Kind::Actix => {
                let server = Server::start(move |config| {
                    config.service(web::actix::probes(handle.clone()));
                    config.route("/", actix_web::web::get().to(async || "the app"));
                });
                Self::at(server.address, "", Some(server))
            }
            Kind::ActixScope => {
                let server = Server::start(move |config| {
                    config.service(actix_web::web::scope("/internal").service(web::actix::probes(handle.clone())));
                });
                Self::at(server.address, "/internal", Some(server))
            }
            Kind::OwnPort => Self::at(handle.probe_address().unwrap(), "", None),
        }
    }

    fn at(address: SocketAddr, prefix: &str, server: Option<Server>) -> Self {
        Self { base: format!("http://{address}{prefix}"), _server: server }
    }

    async fn ask(&self, method: Method, path: &str) -> Response {
        web_client().request(method, format!("{}{path}", self.base)).send().await.unwrap()
    }

    async fn statuses(&self) -> [u16; 3] {
        let mut statuses = [0; 3];
        for (status, path) in statuses.iter_mut().zip(PATHS) {
            *status = self.ask(Method::GET, path).await.status().as_u16();
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
async fn each_phase_has_its_answers_through_each_door() {
    for supervision in [Supervision::OwnThread, Supervision::ServerRuntime] {
        for kind in KINDS {
            let door = OnceCell::new();
            let look = async |phase, expected| {
                // Its own port is served from the start of the host to its end.
                if kind != Kind::OwnPort || !matches!(phase, HostPhase::Built | HostPhase::Stopped) {
                    let door: &Door = door.get().unwrap();
                    assert_eq!(door.statuses().await, expected, "{kind:?}, {phase}, {supervision:?}");
                }
            };
            let builder = builder().supervision(supervision).probe_listener(any_port());
            let opens = async |handle| drop(door.set(Door::open(kind, handle).await));
            walk_through_the_phases(builder, look, opens).await;
        }
    }
}

#[tokio::test]
async fn each_door_gives_the_answer_of_the_status_with_its_headers() {
    let unready = service_fn("a pool", |cx| async move {
        cx.not_ready("ça chauffe");
        cx.stopping().await;
        Ok(())
    });
    let host = builder().service(unready).service(steady("b")).probe_listener(any_port()).build().unwrap();
    host.start().await.unwrap();
    let handle = host.handle();
    support::client::eventually("it is not ready", || !handle.status().is_ready()).await;
    for kind in KINDS {
        let door = Door::open(kind, handle.clone()).await;
        for path in PATHS {
            for query in ["", "?", "?verbose", "?verbose&exclude=a+pool&exclude=c", "?exclude=a%20pool"] {
                let target = format!("{path}{query}");
                let expected = handle.status().probe(&target).unwrap();
                let answer = door.ask(Method::GET, &target).await;
                let what = format!("{kind:?} {target}");
                assert_eq!(answer.status().as_u16(), expected.status, "{what}");
                let headers = answer.headers().clone();
                let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
                assert_eq!(header("content-type").unwrap(), "text/plain; charset=utf-8", "{what}");
                assert_eq!(header("cache-control").unwrap(), "no-store", "{what}");
                assert_eq!(header("x-content-type-options").unwrap(), "nosniff", "{what}");
                assert_eq!(header("content-length").unwrap(), expected.body.len().to_string(), "{what}");
                assert_eq!(answer.text().await.unwrap(), expected.body, "{what}");

                let head = door.ask(Method::HEAD, &target).await;
                assert_eq!(head.status().as_u16(), expected.status, "{what}");
                let mut got = head.headers().clone();
                let mut wanted = headers.clone();
                assert!(got.remove("date").is_some() && wanted.remove("date").is_some(), "{what}");
                assert_eq!(got, wanted, "{what}");
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
        let door = Door::open(kind, host.handle()).await;
        for path in ["/healthz", "/livez/x", "/readyzz"] {
            for method in [Method::GET, Method::POST] {
                assert_eq!(door.ask(method, path).await.status(), 404, "{kind:?} {path}");
            }
        }
        for path in PATHS {
            for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::PATCH] {
                let answer = door.ask(method.clone(), path).await;
                assert_eq!(answer.status(), 405, "{kind:?} {method} {path}");
                assert_eq!(answer.headers()["allow"], "GET,HEAD", "{kind:?} {method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn probes_leave_the_routes_beside_them_alone() {
    let host = builder().build().unwrap();
    for kind in [Kind::Axum, Kind::Actix] {
        let door = Door::open(kind, host.handle()).await;
        assert_eq!(door.ask(Method::GET, "/").await.text().await.unwrap(), "the app", "{kind:?}");
    }
}
