//! One attempt on one connection: the request goes, the answer comes, each phase in its turn.

use super::{answer_head, request_head};
use crate::engine::{
    app::{App, Ctx, exchange},
    attempt::Attempt,
    screen,
    upstream_io::UpstreamIo,
};
use bytes::Bytes;
use http::{Method, Version, header};
use pingora::{
    BError, Error, ErrorSource, ErrorType, Result,
    http::ResponseHeader,
    protocols::http::HttpTask,
    proxy::{ProxyHttp, Session},
};
use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};
use tokio::io::AsyncWriteExt;

pub(super) struct Journey<'j> {
    pub(super) app: &'j App,
    pub(super) attempt: &'j Attempt,
    pub(super) write_timeout: Duration,
}

/// How long the connection may rest now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    AsLongAsOurs,
    /// The origin keeps it for so long.
    AtMost(Duration),
    /// It ends.
    Not,
}

impl Journey<'_> {
    pub(super) async fn make(&self, session: &mut Session, ctx: &mut Ctx, io: &mut UpstreamIo) -> Result<Rest> {
        self.send(session, ctx, io).await?;
        let mut response = self.final_head(session, ctx, io).await?;
        let rest = rest_after(&response);
        self.app.upstream_response_filter(session, &mut response, ctx).await?;
        self.pass_on(session, ctx, io, response).await?;
        Ok(if io.is_answered() { rest } else { Rest::Not })
    }

    async fn send(&self, session: &mut Session, ctx: &mut Ctx, io: &mut UpstreamIo) -> Result<()> {
        let exchange = exchange(ctx)?;
        // A later try got through: the earlier one's reason is history.
        exchange.fate = None;
        screen::reached(session, exchange, Some(io.gate())).await?;
        let mut request = request_head::begin(session.req_header()).map_err(Error::into_down)?;
        self.app.upstream_request_filter(session, &mut request, ctx).await?;
        io.begin(&request_head::write(request)?);
        // Whoever looks into bodies learns that there is none; until then nothing was sent.
        self.app.request_body_filter(session, &mut None, true, ctx).await?;
        match tokio::time::timeout(self.write_timeout, io.flush()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failed(ErrorType::WriteError, error)),
            Err(_) => Err(Error::new_up(ErrorType::WriteTimedout)),
        }
    }

    /// Passes interim answers on.
    async fn final_head(&self, session: &mut Session, ctx: &mut Ctx, io: &mut UpstreamIo) -> Result<ResponseHeader> {
        loop {
            let head = self.awaited(session, io.head()).await?;
            let head = head.ok_or_else(|| Error::new_up(ErrorType::ConnectionClosed))?;
            let mut response = answer_head::read(&head).map_err(Error::into_up)?;
            if !response.status.is_informational() {
                return Ok(response);
            }
            self.app.upstream_response_filter(session, &mut response, ctx).await?;
            self.app.response_filter(session, &mut response, ctx).await?;
            session.write_response_tasks(vec![HttpTask::Header(Box::new(response), false)]).await?;
        }
    }

    async fn pass_on(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        io: &mut UpstreamIo,
        mut response: ResponseHeader,
    ) -> Result<()> {
        let is_whole = io.is_answered();
        // What is there at once goes with the head; and an answer that breaks off at once is none: nothing of it was passed on, and it may
        // be asked for again by the same rules as if there had been no head.
        let mut first = if is_whole { Some(None) } else { at_once(io).await? };
        frame(session.req_header().method == Method::HEAD, &mut response, is_whole)?;
        self.app.response_filter(session, &mut response, ctx).await?;
        let mut tasks = Vec::with_capacity(2);
        tasks.push(HttpTask::Header(Box::new(response), is_whole));
        if is_whole || first.is_none() {
            session.write_response_tasks(std::mem::take(&mut tasks)).await?;
        }
        let mut is_over = is_whole;
        while !is_over {
            let piece = match first.take() {
                Some(piece) => piece,
                None => match self.awaited(session, io.content()).await {
                    Ok(piece) => piece,
                    Err(error) => return Err(broken(session, error).await),
                },
            };
            is_over = piece.is_none() || io.is_answered();
            let mut piece = piece;
            self.app.response_body_filter(session, &mut piece, is_over, ctx)?;
            tasks.push(HttpTask::Body(piece, is_over));
            session.write_response_tasks(std::mem::take(&mut tasks)).await?;
        }
        session.downstream_session.finish_body().await.map_err(Error::into_down)?;
        Ok(())
    }

    /// What the upstream says in time, as long as the client is there.
    async fn awaited<T>(&self, session: &mut Session, said: impl Future<Output = io::Result<T>>) -> Result<T> {
        let left = session.downstream_session.read_body_or_idle(true);
        tokio::select! {
            biased;
            said = tokio::time::timeout(self.attempt.read_timeout(), said) => match said {
                Ok(Ok(said)) => Ok(said),
                Ok(Err(error)) => Err(failed(ErrorType::ReadError, error)),
                Err(_) => Err(Error::new_up(ErrorType::ReadTimedout)),
            },
            left = left => Err(match left {
                Ok(_) => Error::new_down(ErrorType::ConnectionClosed),
                Err(error) => error.into_down(),
            }),
        }
    }
}

fn failed(as_what: ErrorType, error: io::Error) -> BError {
    Error::because(as_what, "on the way by the lane", error).into_up()
}

/// What of the answer was passed on goes out, before the connection ends in its middle.
async fn broken(session: &mut Session, error: BError) -> BError {
    if error.esource() != &ErrorSource::Upstream || session.response_written().is_none() {
        return error;
    }
    // Two tasks: the engine flushes before a failure only what comes with it.
    let tasks = vec![HttpTask::Body(None, false), HttpTask::Failed(error)];
    let written = session.write_response_tasks(tasks).await;
    written.err().unwrap_or_else(|| Error::new_up(ErrorType::ConnectionClosed))
}

/// The first of the body, when it is there already: `Some(None)`, when it is empty.
async fn at_once(io: &mut UpstreamIo) -> Result<Option<Option<Bytes>>> {
    let mut content = pin!(io.content());
    poll_fn(|cx| {
        Poll::Ready(match Pin::new(&mut content).poll(cx) {
            Poll::Ready(said) => said.map(Some).map_err(|error| failed(ErrorType::ReadError, error)),
            Poll::Pending => Ok(None),
        })
    })
    .await
}

/// A body that ends with the upstream's connection is none that the client's must end with.
fn frame(of_head: bool, response: &mut ResponseHeader, is_whole: bool) -> Result<()> {
    let is_framed =
        [header::TRANSFER_ENCODING, header::CONTENT_LENGTH].iter().any(|name| response.headers.contains_key(name));
    if is_framed || is_whole || of_head || matches!(response.status.as_u16(), 204 | 304) {
        return Ok(());
    }
    response.set_version(Version::HTTP_11);
    response.insert_header(header::TRANSFER_ENCODING, "chunked")
}

fn rest_after(response: &ResponseHeader) -> Rest {
    match (answer_head::keeps_alive(response), answer_head::kept_for(response)) {
        (false, _) => Rest::Not,
        (true, Some(most)) => Rest::AtMost(most),
        (true, None) => Rest::AsLongAsOurs,
    }
}
