//! A compiled thing with a mistake in it may ask for less than was meant, so that it is not handed out at all.

use portcullis_config::{Context, Level};

/// What `compile` makes, unless it reports an error.
pub(crate) fn unless_wrong<T>(cx: &mut Context, compile: impl FnOnce(&mut Context) -> Option<T>) -> Option<T> {
    let before = errors(cx);
    let made = compile(cx)?;
    (errors(cx) == before).then_some(made)
}

fn errors(cx: &Context) -> usize {
    cx.report().problems().iter().filter(|problem| problem.level == Level::Error).count()
}
