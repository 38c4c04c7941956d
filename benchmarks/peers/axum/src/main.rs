//! The next number by axum, on one thread: axum-peer PORT
use std::sync::atomic::{AtomicI64, Ordering};

use axum::{extract::Path, routing::get, Router};

static NEXT: AtomicI64 = AtomicI64::new(1);

async fn segment(Path(_tag): Path<String>) -> String {
    NEXT.fetch_add(1, Ordering::Relaxed).to_string()
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let port = std::env::args().nth(1).expect("a port");
    let app = Router::new().route("/api/segment/get/{tag}", get(segment));
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await.expect("the port is free");
    axum::serve(listener, app).await.expect("it serves");
}
