//! A control API with its board and its Kubernetes, and what an agent asks of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use kuik_crd::control::{Agent, Agents, Desired, Held, Report};
use kuik_webhook::board::{Board, Leadership, Wishes};
use kuik_webhook::control::{self, ControlParts, Metrics, Reviewer};
use kuik_webhook::credentials::{self, PullSecrets};
use kuik_webhook::naming::Names;
use kuik_webhook::tls_server::{self, Limits};
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::kubernetes::{FakeApi, NAMESPACE};
use super::pki::Ca;

/// The host that the control API's certificate is for.
pub(crate) const HOST: &str = "kube-image-keeper-control.kuik-system.svc";

/// One replica.
pub(crate) struct Scene {
    pub(crate) api: FakeApi,
    pub(crate) board: Board,
    pub(crate) authority: watch::Sender<Option<Bytes>>,
    pub(crate) stop: CancellationToken,
    pub(crate) router: Router,
    registry: Registry,
}

impl Scene {
    /// A replica that leads, wants nothing, and knows the token `one` of the agent on `node1`.
    pub(crate) fn leading() -> Self {
        let scene = Self::new(9443);
        scene.board.lead(Leadership::Us);
        scene.board.publish_pull_keys(&[]);
        scene.board.wish(Some(Wishes::default()));
        scene
    }

    /// A replica that takes `leader` for the leader, and trusts `ca`.
    pub(crate) fn following(leader: &Served, ca: &Ca) -> Self {
        let scene = Self::new(leader.address.port());
        scene.authority.send_replace(Some(ca.pem()));
        scene.board.lead(Leadership::Other(leader.address.ip()));
        scene
    }

    /// A replica that knows of no leader; leaders listen on `port`.
    pub(crate) fn new(port: u16) -> Self {
        super::install_crypto();
        let (api, board, stop) = (FakeApi::new(), Board::default(), CancellationToken::new());
        api.agent("one", "node1");
        let authority = watch::channel(None).0;
        let mut registry = Registry::default();
        let router = control::router(ControlParts {
            reviewer: Reviewer::new(api.client(), Arc::new(names())),
            secrets: PullSecrets::new(api.client(), Vec::new(), credentials::Metrics::register(&mut registry)),
            host: HOST.to_owned(),
            board: board.clone(),
            authority: authority.subscribe(),
            port,
            metrics: Metrics::register(&mut registry),
            stop: stop.clone(),
        });
        Self { api, board, authority, stop, router, registry }
    }

    /// What `path` answers to the bearer of `token`, who has the answer `etag` already.
    pub(crate) async fn get(&self, path: &str, token: &str, etag: Option<&str>) -> Answer {
        let mut request = Request::get(path).header("authorization", format!("Bearer {token}"));
        if let Some(etag) = etag {
            request = request.header("if-none-match", etag);
        }
        self.send(request.body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn report(&self, token: &str, report: &Report) -> Answer {
        let body = serde_json::to_vec(report).unwrap();
        let request =
            Request::post("/v1/report").header("authorization", format!("Bearer {token}")).header("content-type", "application/json");
        self.send(request.body(Body::from(body)).unwrap()).await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        Answer { status: parts.status, headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    /// The value of a line of the metrics.
    pub(crate) fn metric(&self, name: &str) -> Option<u64> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }

    /// Serves the router over TLS, with a certificate for `host`.
    pub(crate) fn serve(&self, ca: &Ca, host: &str) -> Served {
        let listener = tls_server::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let limits = Limits { shutdown_delay: std::time::Duration::ZERO, ..Limits::default() };
        tokio::spawn(tls_server::serve(listener, self.router.clone(), ca.server_config(&[host]), limits, stop.clone()));
        Served { address, stop }
    }
}

/// A replica's open port.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn etag(&self) -> String {
        self.header("etag").expect("the answer must have an ETag").to_owned()
    }

    /// Expects a refusal that says `part`.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, part: &str) -> &Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        let json = self.json();
        let message = json["error"].as_str().expect("a refusal must say why");
        assert!(message.contains(part), "no {part:?} in {message:?}");
        assert!(!message.contains('\n'), "{message:?}");
        self
    }

    /// Expects that the refusal says when to come back.
    #[track_caller]
    pub(crate) fn later(&self) -> &Self {
        let seconds: u64 = self.header("retry-after").expect("the refusal must say when to come back").parse().unwrap();
        assert!((1..=60).contains(&seconds), "{seconds}");
        self
    }
}

pub(crate) fn names() -> Names {
    Names {
        fullname: "kube-image-keeper".to_owned(),
        release: "kube-image-keeper".to_owned(),
        namespace: NAMESPACE.to_owned(),
        pod_name: "webhook-1".to_owned(),
        pod_ip: "127.0.0.1".to_owned(),
        agent_service_account: "kube-image-keeper-agent".to_owned(),
    }
}

/// Wishes that know `node1`'s agent, and that it is to keep `image`.
pub(crate) fn wish(image: &str) -> Wishes {
    let agent = Agent { node: "node1".to_owned(), zone: None, address: "10.0.0.1".to_owned() };
    let desired = Desired { keep: vec![image.to_owned()], ..Desired::default() };
    Wishes { agents: Agents { agents: vec![agent] }, desired: [("node1".to_owned(), desired)].into(), ..Wishes::default() }
}

/// A full report of `images`.
pub(crate) fn full(sequence: u64, images: &[&str]) -> Report {
    let images = images.iter().map(|image| Held { image: (*image).to_owned(), complete: true, ..Held::default() }).collect();
    Report { boot: "boot".to_owned(), sequence, full: true, images, ..Report::default() }
}

/// A request of any kind by the bearer of `one`.
pub(crate) fn request(method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path).header("authorization", "Bearer one");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body.into()).unwrap()
}
