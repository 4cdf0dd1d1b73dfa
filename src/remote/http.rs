//! The wire of an S3 remote, below `object_store`'s retries: counts every attempt, waits no longer than it should, for silence and for
//! answers that drip, and bounds what a server may answer where `object_store` would read on without end. Knows no object's name and
//! signs nothing.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use http_body::{Body, Frame};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    ReqwestConnector,
};
use tokio::time::Instant;

use super::traffic::{Counters, Request};
use super::xml;

/// A page has 1,000 keys of at most 1,024 bytes each: escaped at their worst, with all that stands around them, they stay below this.
const MAX_PAGE: usize = 16 << 20;
/// An error's text beyond this tells nobody anything.
const MAX_ERROR: usize = 64 << 10;
/// An upload may be as slow as this, in bytes a second, before it counts as stuck.
const SLOWEST_UPLOAD: u64 = 16 << 10;
/// An answer slower than this, in bytes a second, counts as none: a server that sends a byte now and then is never silent.
const SLOWEST_ANSWER: u64 = 1 << 10;

/// Makes clients that count into `counters` what goes to the store's own server (and not what goes to a credentials service).
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) counters: Arc<Counters>,
    /// The host of the store's endpoint; AWS's own where there is none.
    pub(super) host: Option<String>,
    pub(super) silence: Duration,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        // A read timeout starts with the request, so that it would cut off an upload that merely takes its time.
        let readers = ReqwestConnector::default().connect(&options.clone().with_read_timeout(self.silence))?;
        let writers = ReqwestConnector::default().connect(options)?;
        let (counters, host) = (Arc::clone(&self.counters), self.host.clone());
        Ok(HttpClient::new(Service { readers, writers, counters, host, silence: self.silence }))
    }
}

#[derive(Debug)]
struct Service {
    readers: HttpClient,
    writers: HttpClient,
    counters: Arc<Counters>,
    host: Option<String>,
    silence: Duration,
}

impl HttpService for Service {
    // `HttpService` is declared with the `async_trait` macro, and this is what that expands to.
    fn call<'a, 'f>(&'a self, request: HttpRequest) -> BoxFuture<'f, Result<HttpResponse, HttpError>>
    where
        'a: 'f,
        Self: 'f,
    {
        Box::pin(self.perform(request))
    }
}

impl Service {
    async fn perform(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let kind = kind_of(&request);
        if let Some(kind) = kind.filter(|_| self.is_store(&request)) {
            self.counters.request(kind);
            self.counters.sent(request.body().content_length());
        }
        let response = match kind {
            Some(Request::Put) => self.upload(request).await?,
            // To delete is harmless to repeat, which `object_store` does not know of a POST.
            Some(Request::Delete) => self.readers.execute(request).await.map_err(repeatable)?,
            _ => self.readers.execute(request).await?,
        };
        let response = paced(response, self.silence);
        if !response.status().is_success() {
            return shorten(response).await;
        }
        match kind {
            Some(Request::List) => self.page(response).await,
            Some(Request::Delete) => whole(response).await.map_err(repeatable),
            _ => Ok(response),
        }
    }

    async fn upload(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let length = request.body().content_length() as u64;
        let limit = self.silence.saturating_add(Duration::from_secs(length / SLOWEST_UPLOAD));
        match tokio::time::timeout(limit, self.writers.execute(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(HttpError::new(HttpErrorKind::Timeout, Unusable("the upload took too long"))),
        }
    }

    async fn page(&self, response: HttpResponse) -> Result<HttpResponse, HttpError> {
        let (parts, body) = whole(response).await?.into_parts();
        let page = body.bytes().await?;
        self.counters.received(page.len());
        if !xml::is_listing(&page) {
            // `object_store` reads any other document as a listing without objects.
            return Err(HttpError::new(HttpErrorKind::Decode, Unusable(NO_LISTING)));
        }
        let page = match std::str::from_utf8(&page).map(xml::without_odd_keys) {
            Ok(std::borrow::Cow::Owned(page)) => Bytes::from(page),
            _ => page,
        };
        Ok(HttpResponse::from_parts(parts, page.into()))
    }

    fn is_store(&self, request: &HttpRequest) -> bool {
        let host = request.uri().host().unwrap_or_default();
        match &self.host {
            Some(own) => host.eq_ignore_ascii_case(own),
            None => host.ends_with(".amazonaws.com") && !host.starts_with("sts."),
        }
    }
}

fn kind_of(request: &HttpRequest) -> Option<Request> {
    let query = request.uri().query().unwrap_or_default();
    match request.method().as_str() {
        "GET" if query.split('&').any(|pair| pair == "list-type=2") => Some(Request::List),
        "GET" => Some(Request::Get),
        "HEAD" => Some(Request::Head),
        "PUT" => Some(Request::Put),
        "DELETE" => Some(Request::Delete),
        "POST" if query == "delete" => Some(Request::Delete),
        _ => None,
    }
}

/// The same failure, as one after which the request is made again.
fn repeatable(error: HttpError) -> HttpError {
    HttpError::new(HttpErrorKind::Request, error)
}

/// The answer with a body that ends in an error if it comes too slowly.
fn paced(response: HttpResponse, silence: Duration) -> HttpResponse {
    let (parts, body) = response.into_parts();
    // Bytes that came earn patience for those that follow, but never more than a silence may take.
    let chunks = stream::try_unfold((body.bytes_stream(), silence), move |(mut chunks, patience)| async move {
        let asked = Instant::now();
        let chunk = match tokio::time::timeout(patience, chunks.next()).await {
            Ok(Some(chunk)) => chunk?,
            Ok(None) => return Ok(None),
            Err(_) => return Err(HttpError::new(HttpErrorKind::Timeout, Unusable("the answer comes too slowly"))),
        };
        let earned = Duration::from_millis(chunk.len() as u64 * 1_000 / SLOWEST_ANSWER);
        let patience = patience.saturating_sub(asked.elapsed()).saturating_add(earned).min(silence);
        Ok(Some((chunk, (chunks, patience))))
    });
    HttpResponse::from_parts(parts, HttpResponseBody::new(Chunks(Mutex::new(chunks.boxed()))))
}

/// A body that comes as a stream. The lock is never taken: bodies have to be shareable, and streams are not.
struct Chunks(Mutex<BoxStream<'static, Result<Bytes, HttpError>>>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let chunks = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        chunks.poll_next_unpin(context).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }
}

/// The answer once all of it is here, so that one that breaks off can be asked for again.
async fn whole(response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let (parts, body) = response.into_parts();
    match collect(body.bytes_stream(), MAX_PAGE).await? {
        (page, true) => Ok(HttpResponse::from_parts(parts, page.into())),
        (_, false) => Err(HttpError::new(HttpErrorKind::Decode, Unusable("a page of the answer is too long"))),
    }
}

/// An error's body as readable text of bounded length: `object_store` forgets the status of one that is not UTF-8.
async fn shorten(response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let (parts, body) = response.into_parts();
    let (text, _) = collect(body.bytes_stream(), MAX_ERROR).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(HttpResponse::from_parts(parts, text.into()))
}

/// Reads a body up to a limit; false if there was more.
async fn collect(
    mut chunks: impl futures::Stream<Item = Result<Bytes, HttpError>> + Unpin,
    limit: usize,
) -> Result<(Bytes, bool), HttpError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        let room = limit - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            return Ok((body.freeze(), false));
        }
    }
    Ok((body.freeze(), true))
}

const NO_LISTING: &str =
    "the answer is no listing: check that the address is an S3 server's, and that the network wants no login";

/// Why an answer was given up.
#[derive(Debug)]
struct Unusable(&'static str);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Unusable {}
