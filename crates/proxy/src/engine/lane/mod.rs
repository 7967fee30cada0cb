//! The lane: a request without a body takes its upstream's way by our own hands.
//!
//! pingora carries a message each way at once, through two tasks' worth of state and a channel for each, which is what uploads and
//! tunnels need. Most requests have no body and their upstream speaks HTTP/1.1: for those one write, one read and one write will do,
//! at some three quarters of the cost. Every phase is asked as pingora asks it, in its order; the client's side stays pingora's.

mod answer_head;
mod journey;
mod pool;
mod request_head;

use super::{
    TRIES_MAX,
    app::{App, Ctx, exchange},
    attempt::Attempt,
    peers::Straight,
    setback::{broken_off, not_connected},
};
use journey::{Journey, Rest};
use pingora::{BError, Result, proxy::Session};
pub(super) use pool::Pool;

impl App {
    /// `false`: the request is none for the lane, or its next attempt is not.
    pub(super) async fn by_lane(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        if !request_head::takes(session, exchange(ctx)?) {
            return Ok(false);
        }
        let mut tries = 1;
        loop {
            let exchange = exchange(ctx)?;
            exchange.wait_for_attempt().await;
            let attempt = Attempt::pick(session, exchange)?;
            let Some(straight) = attempt.straight(session, exchange) else {
                exchange.attempt = Some(attempt);
                return Ok(false);
            };
            match self.try_by_lane(session, ctx, &attempt, straight).await {
                Ok(()) => return Ok(true),
                Err(error) if error.retry() && tries < TRIES_MAX => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// One attempt; the error says whether there is another.
    async fn try_by_lane(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        attempt: &Attempt,
        straight: Straight<'_>,
    ) -> Result<()> {
        let pooled = self.pool.take(straight.way);
        let is_reused = pooled.is_some();
        let mut io = match pooled {
            Some(io) => io,
            None => {
                straight.dial().await.map_err(|error: BError| not_connected(session, ctx, error.into_up()).into_up())?
            }
        };
        let journey = Journey { app: self, attempt, write_timeout: straight.write_timeout() };
        match journey.make(session, ctx, &mut io).await {
            Ok(rest) => {
                match rest {
                    Rest::AsLongAsOurs => self.pool.keep(straight.way, io, straight.rest),
                    Rest::AtMost(most) => self.pool.keep(straight.way, io, straight.rest.min(most)),
                    Rest::Not => io.end(),
                }
                Ok(())
            }
            Err(error) => Err(broken_off(session, error, ctx, is_reused)),
        }
    }
}
