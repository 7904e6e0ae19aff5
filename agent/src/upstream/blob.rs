//! Blobs, by HEAD and as a stream that begins where the caller wants.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use http::header::{ACCEPT, CONTENT_RANGE, HeaderValue, RANGE};
use http::{HeaderMap, Method, StatusCode};

use super::ask::{Answer, Blame, Operation, Question};
use super::body::Body;
use super::client::{Incoming, content_length};
use super::endpoints::EndpointId;
use super::error::UpstreamError;
use super::limits::Lane;
use crate::oci::{ContentRange, Digest, Hasher};

fn question(method: Method, digest: &Digest) -> Question {
    let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("*/*"))]);
    Question { method, path: format!("blobs/{digest}"), query: None, headers }
}

pub(super) struct HeadBlob<'a>(pub(super) &'a Digest);

impl Operation for HeadBlob<'_> {
    /// The size in bytes, where it was said.
    type Output = Option<u64>;

    fn question(&self) -> Question {
        question(Method::HEAD, self.0)
    }

    /// A registry that sends us elsewhere has the blob. Elsewhere may not take a HEAD: signed URLs are often good for a GET alone.
    fn accepts(&self, incoming: &Incoming) -> bool {
        let status = incoming.status();
        status.is_success() || (incoming.redirected && matches!(status.as_u16(), 400 | 401 | 403 | 405 | 501))
    }

    async fn read(&self, answer: Answer) -> Result<Option<u64>, UpstreamError> {
        let incoming = &answer.incoming;
        // Servers that leave the size out often say 0, for the empty body of HEAD itself.
        let is_empty = || Hasher::digest(self.0.algorithm(), b"") == *self.0;
        Ok(content_length(incoming).filter(|size| incoming.status().is_success() && (*size > 0 || is_empty())))
    }
}

pub(super) struct GetBlob<'a> {
    pub(super) digest: &'a Digest,
    pub(super) from: u64,
}

impl Operation for GetBlob<'_> {
    type Output = BlobStream;

    fn question(&self) -> Question {
        let mut question = question(Method::GET, self.digest);
        if self.from > 0 {
            let range = format!("bytes={}-", self.from).parse().expect("a number must fit a header");
            question.headers.insert(RANGE, range);
        }
        question
    }

    fn lane(&self) -> Lane {
        Lane::Downloads
    }

    fn accepts(&self, incoming: &Incoming) -> bool {
        match incoming.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => true,
            StatusCode::RANGE_NOT_SATISFIABLE => self.from > 0,
            _ => false,
        }
    }

    async fn read(&self, answer: Answer) -> Result<BlobStream, UpstreamError> {
        let span = Span::of(&answer, self.from)?;
        let blame = answer.blame.clone();
        let endpoint = blame.endpoint.clone();
        let body = BlobBody { span, done: false, blame, body: answer.into_body() };
        Ok(BlobStream { endpoint, size: span.size, body })
    }
}

/// A blob on its way.
#[derive(Debug)]
pub struct BlobStream {
    /// Who sends it.
    pub endpoint: EndpointId,
    /// The size of the whole blob in bytes, where it was said.
    pub size: Option<u64>,
    /// Its bytes, from where they were asked for.
    pub body: BlobBody,
}

/// Which bytes of the blob an answer holds.
#[derive(Debug, Clone, Copy)]
struct Span {
    /// So many bytes come before those that are wanted.
    skip: u64,
    /// The position in the blob of the next byte that is handed on.
    next: u64,
    /// Where the answer ends, if it said so.
    end: Option<u64>,
    /// The size of the whole blob, if it was said.
    size: Option<u64>,
    /// There is nothing after `next`, whatever the body holds.
    empty: bool,
}

impl Span {
    fn of(answer: &Answer, from: u64) -> Result<Self, UpstreamError> {
        let incoming = &answer.incoming;
        let range = incoming.header(CONTENT_RANGE);
        let whole = Self { skip: from, next: from, end: None, size: None, empty: false };
        match incoming.status() {
            StatusCode::OK => {
                let size = content_length(incoming);
                if size.is_some_and(|size| size < from) {
                    return Err(answer.protocol(format!("the blob is shorter than the {from} bytes had of it before")));
                }
                Ok(Self { end: size, size, ..whole })
            }
            StatusCode::PARTIAL_CONTENT => {
                let said = range.unwrap_or_default();
                let range = ContentRange::parse(said).filter(|range| range.first == from);
                let range = range.ok_or_else(|| answer.protocol(format!("asked for bytes {from}- and got {said:?}")))?;
                Ok(Self { skip: 0, end: Some(range.last.saturating_add(1)), size: range.size, ..whole })
            }
            _ => {
                let size = range.and_then(|range| range.strip_prefix("bytes */")).and_then(|size| size.parse().ok());
                match size {
                    Some(size) if size == from => Ok(Self { skip: 0, end: Some(size), size: Some(size), empty: true, ..whole }),
                    _ => Err(answer.protocol(format!("asked for bytes {from}- and got status 416 with {:?}", range.unwrap_or_default()))),
                }
            }
        }
    }
}

/// The bytes of a blob, from where they were asked for. It ends with `None` only where the blob ends; when it breaks off it says so, and
/// the caller asks for the rest.
pub struct BlobBody {
    span: Span,
    done: bool,
    blame: Blame,
    body: Body,
}

impl fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobBody").field("span", &self.span).field("body", &self.body).finish_non_exhaustive()
    }
}

impl BlobBody {
    /// Takes off what was not asked for, and holds the answer to the length that it claimed.
    fn trim(&mut self, mut chunk: Bytes) -> Result<Bytes, UpstreamError> {
        let skipped = self.span.skip.min(chunk.len() as u64);
        self.span.skip -= skipped;
        let _ = chunk.split_to(usize::try_from(skipped).expect("a part of a chunk must fit into memory"));
        self.span.next = self.span.next.saturating_add(chunk.len() as u64);
        if self.span.end.is_some_and(|end| self.span.next > end) {
            return Err(UpstreamError::Protocol {
                at: self.body.at().clone(),
                detail: "more bytes than the answer's headers said".to_owned(),
            });
        }
        Ok(chunk)
    }

    /// What the end of the answer means.
    fn finish(&self) -> Option<UpstreamError> {
        let Span { skip, next, end, size, .. } = self.span;
        let wanted = size.or(end);
        if skip == 0 && wanted.is_none_or(|wanted| next >= wanted) {
            return None;
        }
        let detail = match wanted {
            Some(wanted) => format!("it ended at byte {next} of {wanted}"),
            None => format!("it ended {skip} bytes before the position asked for"),
        };
        Some(UpstreamError::Broken { at: self.body.at().clone(), detail })
    }
}

impl Stream for BlobBody {
    type Item = Result<Bytes, UpstreamError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.done || self.span.empty {
            return Poll::Ready(None);
        }
        loop {
            let item = match ready!(self.body.poll_chunk(cx)) {
                Some(Ok(chunk)) => match self.trim(chunk) {
                    Ok(chunk) if chunk.is_empty() => continue,
                    trimmed => Some(trimmed),
                },
                Some(Err(error)) => Some(Err(error)),
                None => self.finish().map(Err),
            };
            self.done = !matches!(item, Some(Ok(_)));
            if let Some(Err(error)) = &item {
                self.blame.add(error);
            }
            if self.done {
                // Who resumes needs a turn, and may still hold this.
                self.body.release();
            }
            return Poll::Ready(item);
        }
    }
}
