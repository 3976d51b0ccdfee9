//! A computation on an uploaded file, in axum: on the runtime, in `run_blocking`, in `run_cpu`, and in a `ProcessPool`.
//!
//! Run it: `cargo run --release --example axum_upload_cpu`. `PORT` (default 3000; 0 picks a free port) sets the port.
//! The runtime has one thread, so that a busy thread is noticeable. Without `--release` the computation takes longer,
//! which makes it more noticeable. The server prints "Hello" and "Goodbye".
//!
//! Upload a large picture (PNG or JPEG), and meanwhile run `curl localhost:3000/` in a second terminal:
//!
//! ```text
//! curl -F file=@picture.jpg localhost:3000/on-runtime    # all other requests wait
//! curl -F file=@picture.jpg localhost:3000/run-blocking  # no request waits; 40 uploads at a time share the processors
//! curl -F file=@picture.jpg localhost:3000/run-cpu       # no request waits; one upload at a time for each processor
//! curl -F file=@picture.jpg localhost:3000/process       # the same, and a picture may crash its decoder (Linux)
//! ```
//!
//! Each response lists the sizes of the thumbnails.

#![allow(clippy::print_stdout, reason = "the example shows the order of events on stdout")]

use std::env;
use std::io::Cursor;
use std::sync::LazyLock;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::response::Result;
use axum::routing::{get, post};
use axum::{Json, Router};
use axum_extra::extract::Multipart;
use image::imageops::FilterType;
use image::{ImageFormat, ImageResult};
use onelane::background::{BoxError, ShutdownReport};
use onelane::offload::process::Attachment;
use onelane::web::axum::serve;
use onelane::{ProcessPool, ServiceHost, run_blocking, run_cpu};
use tokio::net::TcpListener;

const WIDTHS: [u32; 4] = [512, 256, 128, 64];

/// The sizes of a picture's thumbnails, in bytes.
type Sizes = Vec<usize>;

/// Computes for a while and returns the sizes of the thumbnails.
fn thumbnails(file: &[u8]) -> std::result::Result<Sizes, String> {
    println!("Hello");
    let picture = image::load_from_memory(file).map_err(|error| error.to_string())?;
    let thumbnail = |width| {
        let mut png = Cursor::new(Vec::new());
        picture.resize(width, width, FilterType::Lanczos3).write_to(&mut png, ImageFormat::Png)?;
        Ok(png.into_inner().len())
    };
    let sizes = WIDTHS.into_iter().map(thumbnail).collect::<ImageResult<Sizes>>();
    println!("Goodbye");
    sizes.map_err(|error| error.to_string())
}

type Response = std::result::Result<Json<Sizes>, (StatusCode, String)>;

fn response(sizes: std::result::Result<Sizes, String>) -> Response {
    sizes.map(Json).map_err(|error| (StatusCode::UNPROCESSABLE_ENTITY, error + "\n"))
}

async fn on_runtime(form: Multipart) -> Result<Json<Sizes>> {
    let file = upload(form).await?;
    Ok(response(thumbnails(&file))?)
}

async fn in_run_blocking(form: Multipart) -> Result<Json<Sizes>> {
    let file = upload(form).await?;
    Ok(response(run_blocking(move || thumbnails(&file)).await?)?)
}

async fn in_run_cpu(form: Multipart) -> Result<Json<Sizes>> {
    let file = upload(form).await?;
    Ok(response(run_cpu(move || thumbnails(&file)).await?)?)
}

async fn in_process(form: Multipart) -> Result<Json<Sizes>> {
    static POOL: LazyLock<ProcessPool> = LazyLock::new(|| {
        ProcessPool::builder("thumbnails").timeout(Duration::from_secs(60)).memory_limit(1 << 30).build()
    });
    let file = upload(form).await?;
    Ok(response(POOL.run(|file: Attachment| thumbnails(&file), file.into()).await?)?)
}

/// Returns the first file of the form.
async fn upload(mut form: Multipart) -> Result<Bytes> {
    match form.next_field().await? {
        Some(file) => Ok(file.bytes().await?),
        None => Ok(Bytes::new()),
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> Result<ShutdownReport, BoxError> {
    let app = Router::new()
        .route("/", get(async || "hello\n"))
        .route("/on-runtime", post(on_runtime))
        .route("/run-blocking", post(in_run_blocking))
        .route("/run-cpu", post(in_run_cpu))
        .route("/process", post(in_process))
        .layer(DefaultBodyLimit::max(64 << 20));
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(serve(ServiceHost::default(), listener, app).await?)
}
