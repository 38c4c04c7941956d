//! The next number by tonic, on one thread: tonic-peer PORT
use std::convert::Infallible;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codec::ProstCodec;
use tonic::codegen::{http, BoxFuture, Service};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};

static NEXT: AtomicI64 = AtomicI64::new(1);

#[derive(Clone, PartialEq, prost::Message)]
struct SegmentNextRequest {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(uint32, tag = "2")]
    count: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct IdsResponse {
    #[prost(sfixed64, repeated, tag = "1")]
    ids: Vec<i64>,
}

struct Next;

impl UnaryService<SegmentNextRequest> for Next {
    type Response = IdsResponse;
    type Future = BoxFuture<Response<IdsResponse>, Status>;

    fn call(&mut self, request: Request<SegmentNextRequest>) -> Self::Future {
        Box::pin(async move {
            if request.get_ref().tag.is_empty() {
                return Err(Status::invalid_argument("a tag is wanted"));
            }
            Ok(Response::new(IdsResponse { ids: vec![NEXT.fetch_add(1, Ordering::Relaxed)] }))
        })
    }
}

#[derive(Clone)]
struct SegmentService;

impl NamedService for SegmentService {
    const NAME: &'static str = "goloves.v1.SegmentService";
}

impl Service<http::Request<Body>> for SegmentService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            if request.uri().path() != "/goloves.v1.SegmentService/Next" {
                return Ok(Status::unimplemented("there is only Next").into_http());
            }
            Ok(Grpc::new(ProstCodec::default()).unary(Next, request).await)
        })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let port = std::env::args().nth(1).expect("a port");
    let address = format!("127.0.0.1:{port}").parse().expect("an address");
    tonic::transport::Server::builder().add_service(SegmentService).serve(address).await.expect("it serves");
}
