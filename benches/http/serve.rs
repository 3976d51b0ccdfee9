//! The overhead of a server that drains with its host, and of work after the response: axum alone, axum with the
//! client's address in each request, as `serve` has it, and `serve` without and with background tasks.

use std::net::SocketAddr;
use std::thread;

use axum::Router;
use axum::routing::post;
use criterion::{Criterion, Throughput};
use onelane::ServiceHost;
use onelane::web::BackgroundTasks;
use onelane::web::axum::serve;
use tokio::net::TcpListener;

use crate::client::{Client, print_ratios};
use crate::echo::echo;
use crate::harness::{is_measured, is_selected};
use crate::server::{self, runtime};

pub(crate) fn serve_group(c: &mut Criterion) {
    let no_task = |tasks: BackgroundTasks, body: String| async move {
        drop(tasks);
        body
    };
    let one_task = |tasks: BackgroundTasks, body: String| async move {
        tasks.add("nothing", async {}).expect("there is room");
        body
    };
    let app = |handler| Router::new().route("/echo", handler);
    let addresses = [
        ("axum", server::serve(echo())),
        ("axum_connect_info", connect_info(echo())),
        ("onelane", served(echo())),
        ("onelane_no_task", served(app(post(no_task)))),
        ("onelane_one_task", served(app(post(one_task)))),
    ];
    let mut clients: Vec<_> = addresses.map(|(name, address)| (name, Client::connect(address, "HTTP/1.1 200"))).into();
    let mut group = c.benchmark_group("serve");
    group.throughput(Throughput::Elements(1));
    for (name, client) in &mut clients {
        group.bench_function(*name, |b| b.iter_custom(|requests| client.run(requests)));
    }
    group.finish();
    if is_measured() && is_selected("serve") {
        print_ratios("serve", &mut clients);
    }
}

fn connect_info(app: Router) -> SocketAddr {
    in_thread(|listener| async {
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        axum::serve(listener, app).await.expect("the server runs until the process exits");
    })
}

fn served(app: Router) -> SocketAddr {
    in_thread(|listener| async {
        let host = ServiceHost::builder().without_signals().build().expect("a host without services");
        drop(serve(host, listener, app).await.expect("the server runs until the process exits"));
    })
}

/// Serves on a thread of its own, as the other benchmarks do.
fn in_thread<F: Future>(serve: impl FnOnce(TcpListener) -> F + Send + 'static) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket can be made non-blocking");
    let address = listener.local_addr().expect("the listener is bound");
    thread::spawn(move || {
        runtime().block_on(async move {
            serve(TcpListener::from_std(listener).expect("the socket is non-blocking")).await;
        });
    });
    address
}
