//! The HTTP port: is the process alive, does it take requests, and its metrics.

use crate::node::Handle;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves in a task until `closing`.
pub fn serve(node: &Handle, listener: TcpListener, closing: CancellationToken) {
    let router = router(node.clone());
    node.tasks().spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(closing.cancelled_owned());
        if let Err(error) = served.await {
            tracing::error!(%error, "the HTTP server failed");
        }
    });
}

/// `/health`, `/ready` and `/metrics` of this node.
fn router(node: Handle) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(node)
}

/// The process runs and answers. Says nothing of disks or leaders: restarting would not mend those.
async fn health() -> &'static str {
    "alive\n"
}

/// Whether requests should be sent here, and if not, why: one reason a line.
async fn ready(State(node): State<Handle>) -> impl IntoResponse {
    let mut complaints = node.status().complaints();
    if node.tasks().is_stopping() {
        complaints.insert(0, "the node is shutting down".to_owned());
    }
    if complaints.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, complaints.join("\n") + "\n")
    }
}

async fn metrics(State(node): State<Handle>) -> impl IntoResponse {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (
        [(header::CONTENT_TYPE, content_type)],
        node.telemetry().render(&node.status()),
    )
}
