//! The SecLang language: text in, typed pieces out. What the pieces do together is decided in `program`.

pub(crate) mod action;
pub(crate) mod name_pattern;
pub(crate) mod source;
pub(crate) mod statement;
pub(crate) mod target;
pub(crate) mod template;
pub(crate) mod variable;
