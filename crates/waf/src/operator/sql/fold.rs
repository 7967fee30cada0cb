//! Folds the tokens of a value: what a statement of five tokens comes to when the harmless parts are merged.
//!
//! The rules, and the order in which they are tried, are libinjection's; they look at two tokens, then at three, and begin
//! again wherever one applied.

use libinjectionrs::sqli::{SqliFlags, SqliTokenizer, Token, TokenType as T};

use super::lexicon;

/// Tokens of a fingerprint.
pub(super) const MOST: usize = 5;

/// One more is read to tell what the last one is.
const ROOM: usize = MOST + 2;

/// The tokens that are left.
pub(super) struct Folded {
    tokens: [Token; ROOM],
    count: usize,
    /// Tokens read, those that were folded away included.
    pub(super) read: usize,
    /// Whether MySQL would take other parts for comments.
    pub(super) reads_otherwise_in_mysql: bool,
}

impl Folded {
    pub(super) fn tokens(&self) -> &[Token] {
        self.tokens.get(..self.count).unwrap_or_default()
    }
}

/// Reads a value and folds it.
pub(super) fn fold(value: &[u8], flags: SqliFlags) -> Folded {
    let mut folder = Folder {
        source: SqliTokenizer::new(value, flags).with_lookup_fn(&lexicon::kind),
        more: true,
        read: 0,
        comment: None,
        tokens: std::array::from_fn(|_| Token::new()),
        count: 0,
        left: 0,
    };
    let ended = folder.skip_beginning().and_then(|()| folder.run());
    let Folder { source, read, mut tokens, mut count, left, comment, .. } = folder;
    match ended {
        Some(End::Evil) | None => {}
        Some(End::Regular) => count = finish(&mut tokens, left.min(MOST), comment),
    }
    let otherwise = ended != Some(End::Evil) && (source.stats_comment_ddx != 0 || source.stats_comment_hash != 0);
    Folded { tokens, count, read, reads_otherwise_in_mysql: otherwise }
}

/// Why folding ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Regular,
    /// At a construct that only attacks use.
    Evil,
}

/// Puts a comment that ends the value back where there is room. Returns how many tokens there are.
fn finish(tokens: &mut [Token; ROOM], mut count: usize, comment: Option<Token>) -> usize {
    if count > 2
        && let Some(last) = tokens.get_mut(count - 1)
        && last.token_type == T::Bareword
        && (last.str_open, last.str_close, last.len) == (b'`', 0, 0)
    {
        // An open backtick at the end is a comment to MySQL drivers of PHP.
        last.token_type = T::Comment;
    }
    if count < MOST
        && let (Some(comment), Some(place)) = (comment, tokens.get_mut(count))
    {
        *place = comment;
        count += 1;
    }
    count
}

/// What a rule did.
enum Step {
    /// It applied: begin again.
    Again,
    /// None applied, or one after which the others are still to be tried.
    On,
    End,
}

struct Folder<'v> {
    source: SqliTokenizer<'v>,
    /// Whether there may be more tokens.
    more: bool,
    read: usize,
    /// The last token, when it is a comment.
    comment: Option<Token>,
    tokens: [Token; ROOM],
    /// Where the next token goes.
    count: usize,
    /// How many tokens are done with.
    left: usize,
}

impl Folder<'_> {
    /// Comments, parentheses, types and signs that begin a value say nothing. `None` when there is nothing else.
    fn skip_beginning(&mut self) -> Option<()> {
        loop {
            let token = self.source.next_token()?;
            self.read += 1;
            let skipped = matches!(token.token_type, T::Comment | T::LeftParenthesis | T::SqlType) || is_unary(&token);
            if !skipped {
                self.put(0, token);
                self.count = 1;
                return Some(());
            }
        }
    }

    fn run(&mut self) -> Option<End> {
        loop {
            self.begin_again_when_full();
            if !self.more || self.left >= MOST {
                self.left = self.count;
                return Some(End::Regular);
            }
            if !self.fetch(2) {
                self.left = self.count;
                continue;
            }
            match self.pair() {
                Step::Again => continue,
                Step::End => return Some(End::Evil),
                Step::On => {}
            }
            if !self.fetch(3) {
                self.left = self.count;
                continue;
            }
            if let Step::On = self.triple() {
                self.left += 1;
            }
        }
    }

    /// Five tokens of a few forms come to nothing: the sixth is put after the first.
    fn begin_again_when_full(&mut self) {
        if self.count < MOST {
            return;
        }
        let kinds = self.tokens.each_ref().map(|token| token.token_type);
        let folds = matches!(
            kinds,
            [T::Number, T::Operator | T::Comma, T::LeftParenthesis, T::Number, T::RightParenthesis, ..]
                | [T::Bareword, T::Operator, T::LeftParenthesis, T::Bareword | T::Number, T::RightParenthesis, ..]
                | [T::Number, T::RightParenthesis, T::Comma, T::LeftParenthesis, T::Number, ..]
                | [T::Bareword, T::RightParenthesis, T::Operator, T::LeftParenthesis, T::Bareword, ..]
        );
        if !folds {
            return;
        }
        if self.count > MOST {
            self.copy(MOST, 1);
            self.count = 2;
        } else {
            self.count = 1;
        }
        self.left = 0;
    }

    /// Reads on until there are this many tokens to look at; comments between them are passed over.
    fn fetch(&mut self, wanted: usize) -> bool {
        while self.more && self.count <= MOST && self.count - self.left < wanted {
            let Some(token) = self.source.next_token() else {
                self.more = false;
                break;
            };
            self.read += 1;
            if token.token_type == T::Comment {
                self.comment = Some(token);
            } else {
                self.comment = None;
                self.put(self.count, token);
                self.count += 1;
            }
        }
        self.count - self.left >= wanted
    }

    fn put(&mut self, at: usize, token: Token) {
        if let Some(place) = self.tokens.get_mut(at) {
            *place = token;
        }
    }

    fn copy(&mut self, from: usize, to: usize) {
        if let Some(token) = self.tokens.get(from).cloned() {
            self.put(to, token);
        }
    }

    fn become_kind(&mut self, at: usize, kind: T) {
        if let Some(token) = self.tokens.get_mut(at) {
            token.token_type = kind;
        }
    }

    /// Drops the last tokens and begins again from the first.
    fn drop_last(&mut self, number: usize) -> Step {
        self.count -= number;
        self.left = 0;
        Step::Again
    }

    /// Drops the last token and begins again one token earlier.
    fn drop_last_and_step_back(&mut self) -> Step {
        self.count -= 1;
        self.left = self.left.saturating_sub(1);
        Step::Again
    }

    /// The rules for two tokens: those that drop one, then words that are one together, then those about its kind.
    fn pair(&mut self) -> Step {
        let Some([a, b]) = self.tokens.get(self.left..self.left + 2) else { return Step::On };
        match (a.token_type, b.token_type) {
            (T::String, T::String) | (T::Semicolon, T::Semicolon) => {
                self.count -= 1;
                Step::Again
            }
            (T::Operator | T::LogicOperator, kind) if kind == T::SqlType || is_unary(b) => self.drop_last(1),
            (T::LeftParenthesis, _) if is_unary(b) => self.drop_last_and_step_back(),
            _ if self.merge_words() => self.drop_last_and_step_back(),
            _ => self.kinds_of_pair(),
        }
    }

    fn kinds_of_pair(&mut self) -> Step {
        let Some([a, b]) = self.tokens.get(self.left..self.left + 2) else { return Step::On };
        let (left, right) = (self.left, self.left + 1);
        match (a.token_type, b.token_type) {
            (T::Semicolon, T::Function) if begins_with_if(b) => {
                self.become_kind(right, T::Tsql);
                Step::Again
            }
            (T::Bareword | T::Variable, T::LeftParenthesis) if is_one_of(a, FUNCTIONS_BEFORE_PARENTHESES) => {
                self.become_kind(left, T::Function);
                Step::Again
            }
            (T::Keyword, next) if is_one_of(a, &["IN", "NOT IN"]) => {
                self.become_kind(left, if next == T::LeftParenthesis { T::Operator } else { T::Bareword });
                Step::Again
            }
            (T::Operator, next) if is_one_of(a, &["LIKE", "NOT LIKE"]) => {
                if next == T::LeftParenthesis {
                    self.become_kind(left, T::Function);
                }
                Step::On
            }
            (
                T::SqlType,
                T::Bareword | T::Number | T::SqlType | T::LeftParenthesis | T::Function | T::Variable | T::String,
            ) => {
                self.copy(right, left);
                self.drop_last(1)
            }
            (T::Collate, T::Bareword) => {
                // There are too many collations to list them.
                if std::str::from_utf8(text(b)).is_ok_and(|name| name.contains('_')) {
                    self.become_kind(right, T::SqlType);
                    self.left = 0;
                }
                Step::On
            }
            (T::Backslash, _) => {
                if is_arithmetic(b) {
                    // To SQL Server `\%1` is `0 % 1`.
                    self.become_kind(left, T::Number);
                } else {
                    self.copy(right, left);
                    self.count -= 1;
                }
                self.left = 0;
                Step::Again
            }
            (T::LeftParenthesis, T::LeftParenthesis) | (T::RightParenthesis, T::RightParenthesis) => self.drop_last(1),
            (T::LeftBrace, T::Bareword) if b.len == 0 => {
                // Only MySQL reads an empty name in backticks here, and nobody writes it.
                self.become_kind(right, T::Evil);
                self.count = self.left + 2;
                Step::End
            }
            // `{foo expression}` is the expression.
            (T::LeftBrace, T::Bareword) => self.drop_last(2),
            (_, T::RightBrace) => self.drop_last(1),
            _ => Step::On,
        }
    }

    /// Merges two words that are one together: `group` and `by`.
    fn merge_words(&mut self) -> bool {
        let Some([a, b]) = self.tokens.get_mut(self.left..self.left + 2) else { return false };
        let word = |kind: T| {
            matches!(
                kind,
                T::Keyword | T::Bareword | T::Operator | T::Union | T::Function | T::Expression | T::Tsql | T::SqlType
            )
        };
        if !word(a.token_type) || !(word(b.token_type) || b.token_type == T::LogicOperator) {
            return false;
        }
        let mut phrase = a.val;
        let end = a.len + 1 + b.len;
        // One byte stays free, as for the end of a string in C.
        let room = phrase.get_mut(a.len..end).filter(|_| end < a.val.len());
        let Some((blank, rest)) = room.and_then(<[u8]>::split_first_mut) else { return false };
        *blank = b' ';
        rest.copy_from_slice(text(b));
        let kind = phrase.get(..end).and_then(|phrase| std::str::from_utf8(phrase).ok()).map(lexicon::kind);
        match kind {
            None | Some(T::Bareword) => false,
            Some(kind) => {
                a.token_type = kind;
                a.val = phrase;
                a.len = end;
                true
            }
        }
    }

    /// The rules for three tokens.
    fn triple(&mut self) -> Step {
        let Some([a, b, c]) = self.tokens.get(self.left..self.left + 3) else { return Step::On };
        let (middle, last) = (self.left + 1, self.left + 2);
        match (a.token_type, b.token_type, c.token_type) {
            (T::Number, T::Operator, T::Number) | (T::LogicOperator, _, T::LogicOperator) => self.drop_last(2),
            (T::Operator, between, T::Operator) if between != T::LeftParenthesis => self.drop_last(2),
            (T::Variable, T::Operator, T::Variable | T::Number | T::Bareword) => self.drop_last(2),
            (T::Bareword | T::Number, T::Operator, T::Number | T::Bareword) => self.drop_last(2),
            (T::Bareword | T::Number | T::Variable | T::String, T::Operator, T::SqlType) if text(b) == b"::" => {
                self.drop_last(2)
            }
            (
                T::Bareword | T::Number | T::String | T::Variable,
                T::Comma,
                T::Number | T::Bareword | T::String | T::Variable,
            ) => self.drop_last(2),
            (T::Expression | T::Group | T::Comma, _, T::LeftParenthesis) if is_unary(b) => {
                self.copy(last, middle);
                self.drop_last(1)
            }
            (
                T::Keyword | T::Expression | T::Group,
                _,
                T::Number | T::Bareword | T::Variable | T::String | T::Function,
            ) if is_unary(b) => {
                self.copy(last, middle);
                self.drop_last(1)
            }
            (T::Comma, _, T::Number | T::Bareword | T::Variable | T::String) if is_unary(b) => {
                // `1,-1` is `1,1`, which folds together with what is before it.
                self.copy(last, middle);
                self.drop_last(3)
            }
            (T::Comma, _, T::Function) if is_unary(b) => {
                self.copy(last, middle);
                self.drop_last(1)
            }
            (T::Bareword, T::Dot, T::Bareword) => self.drop_last(2),
            (T::Expression, T::Dot, T::Bareword) => {
                self.copy(last, middle);
                self.drop_last(1)
            }
            (T::Function, T::LeftParenthesis, inside) if inside != T::RightParenthesis && is_one_of(a, &["USER"]) => {
                // USER takes no arguments: with one it is a name.
                self.become_kind(self.left, T::Bareword);
                Step::On
            }
            _ => Step::On,
        }
    }
}

/// Names of columns, which are functions before a parenthesis.
const FUNCTIONS_BEFORE_PARENTHESES: &[&str] = &[
    "USER_ID",
    "USER_NAME",
    "DATABASE",
    "PASSWORD",
    "USER",
    "CURRENT_USER",
    "CURRENT_DATE",
    "CURRENT_TIME",
    "CURRENT_TIMESTAMP",
    "LOCALTIME",
    "LOCALTIMESTAMP",
];

fn text(token: &Token) -> &[u8] {
    token.val.get(..token.len).unwrap_or_default()
}

fn is_one_of(token: &Token, words: &[&str]) -> bool {
    words.iter().any(|word| word.as_bytes().eq_ignore_ascii_case(text(token)))
}

/// `IF` begins a statement in Transact-SQL.
fn begins_with_if(token: &Token) -> bool {
    text(token).get(..2).is_some_and(|start| start.eq_ignore_ascii_case(b"IF"))
}

fn is_unary(token: &Token) -> bool {
    token.token_type == T::Operator
        && (matches!(text(token), b"+" | b"-" | b"!" | b"~" | b"!!") || is_one_of(token, &["NOT"]))
}

fn is_arithmetic(token: &Token) -> bool {
    token.token_type == T::Operator && matches!(text(token), b"*" | b"/" | b"-" | b"+" | b"%")
}
