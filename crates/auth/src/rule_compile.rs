//! From `auth = { … }` to an [`AuthRule`], with every mistake named.

use crate::{
    AuthRule, ClaimValues, Consumers, Identity, RuleAuthSpec, TokenPlaceSpec,
    rule::{ApiKeyPlace, JwtRule, Place, Realm},
    unless_wrong::unless_wrong,
};
use portcullis_config::{Context, Path};
use portcullis_names::{HeaderName, ObjectName};
use std::{collections::BTreeMap, sync::Arc};

/// What rules refer to by name.
#[derive(Debug, Clone, Copy)]
pub struct AuthNames<'c> {
    pub identities: &'c BTreeMap<ObjectName, Arc<Identity>>,
    pub consumers: &'c Arc<Consumers>,
}

impl RuleAuthSpec {
    /// `None` when something is wrong; all of it is then in the report.
    pub fn compile(&self, at: &Path, names: AuthNames<'_>, cx: &mut Context) -> Option<AuthRule> {
        unless_wrong(cx, |cx| self.rule(at, names, cx))
    }

    fn rule(&self, at: &Path, names: AuthNames<'_>, cx: &mut Context) -> Option<AuthRule> {
        self.check_shape(at, names, cx);
        let jwt = self.jwt_rule(at, names, cx);
        let api_key = self.api_key_place(&at.key("api_key"), cx);
        let basic = self.realm(&at.key("basic"), cx);
        let client_cert = self.client_cert.as_ref().map(|spec| spec.san.clone());
        if client_cert.as_ref().is_some_and(Vec::is_empty) {
            cx.error(&at.key("client_cert").key("san"), "an empty list lets nobody pass");
        }
        Some(AuthRule {
            jwt: jwt.ok()?,
            api_key: api_key.ok()?,
            basic: basic.ok()?,
            groups: self.groups.as_deref().map(Arc::from),
            client_cert,
            consumers: names.consumers.clone(),
        })
    }

    fn check_shape(&self, at: &Path, names: AuthNames<'_>, cx: &mut Context) {
        let by_consumer = self.api_key.is_some() || self.basic.is_some();
        if self.jwt.is_none() && !by_consumer && self.client_cert.is_none() {
            cx.error(at, "nothing is asked for").help("say `jwt`, `api_key`, `basic` or `client_cert`");
        }
        for (key, written) in [("from", self.from.is_some()), ("require", self.require.is_some())] {
            if written && self.jwt.is_none() {
                cx.error_at_key(&at.key(key), format!("`{key}` is about tokens, and no `jwt` is asked for"));
            }
        }
        let nobody_has = [
            ("api_key", self.api_key.is_some() && !names.consumers.has_keys(), "an API key", "keys"),
            ("basic", self.basic.is_some() && !names.consumers.has_passwords(), "a password", "basic"),
        ];
        for (key, _, what, give) in nobody_has.into_iter().filter(|(_, missing, ..)| *missing) {
            cx.error_at_key(&at.key(key), format!("no consumer has {what}, so nobody can pass by it"))
                .help(format!("give a [consumer.NAME] `{give}`"));
        }
        let key_header = self.api_key.as_ref().and_then(|spec| spec.header.as_ref());
        if self.basic.is_some() && key_header.is_some_and(|name| name.as_str() == "authorization") {
            cx.error(
                &at.key("api_key").key("header"),
                "`basic` is in `authorization` too, and would be taken for a key",
            );
        }
        let Some(groups) = &self.groups else { return };
        let at = at.key("groups");
        if self.jwt.is_none() && !by_consumer {
            cx.error(&at, "a certificate is in no group").help("ask for `jwt`, `api_key` or `basic` as well");
        }
        if groups.is_empty() {
            cx.error(&at, "an empty list lets nobody pass");
        }
        for (index, group) in groups.iter().enumerate() {
            // A token can have any group.
            if self.jwt.is_none() && !names.consumers.has_group(group) {
                cx.error(&at.index(index), format!("no consumer is in group \"{group}\""));
            }
        }
    }

    fn jwt_rule(&self, at: &Path, names: AuthNames<'_>, cx: &mut Context) -> Result<Option<JwtRule>, Wrong> {
        let Some(name) = &self.jwt else { return Ok(None) };
        let places = self.token_places(&at.key("from"), cx);
        let scopes = self.scopes(&at.key("require"), cx);
        let Some(identity) = names.identities.get(name.as_str()) else {
            cx.undefined(&at.key("jwt"), "identity", name, names.identities.keys().map(ObjectName::as_str));
            return Err(Wrong);
        };
        let others = self.require.iter().flatten().filter(|(name, _)| name.as_str() != "scope");
        let scopes = scopes?;
        Ok(Some(JwtRule {
            identity: identity.clone(),
            places: places?,
            claims: others.map(|(name, values)| (name.clone(), values.texts().to_vec())).collect(),
            scope_text: (!scopes.is_empty()).then(|| scopes.join(" ")),
            scopes,
        }))
    }

    fn scopes(&self, at: &Path, cx: &mut Context) -> Result<Vec<String>, Wrong> {
        let scopes = self.require.as_ref().and_then(|require| require.get("scope")).map_or(&[][..], ClaimValues::texts);
        // RFC 6749 §3.3 scope-token; also keeps challenges well-formed.
        let is_scope = |scope: &String| {
            !scope.is_empty() && scope.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
        };
        match scopes.iter().find(|scope| !is_scope(scope)) {
            None => Ok(scopes.to_vec()),
            Some(wrong) => {
                cx.error(&at.key("scope"), format!("\"{}\" is not one scope", wrong.escape_debug()))
                    .help("write several as a list: scope = [\"read\", \"write\"]");
                Err(Wrong)
            }
        }
    }

    fn token_places(&self, at: &Path, cx: &mut Context) -> Result<Vec<Place>, Wrong> {
        let Some(spec) = &self.from else { return Ok(vec![Place::Header(authorization()?)]) };
        let TokenPlaceSpec { header, cookie, query } = spec;
        let places = places(header.as_ref(), cookie.as_deref(), query.as_deref(), at, cx)?;
        if places.is_empty() {
            cx.error(at, "no place is named").help("say `header`, `cookie` or `query`, or leave `from` out");
            return Err(Wrong);
        }
        Ok(places)
    }

    fn api_key_place(&self, at: &Path, cx: &mut Context) -> Result<Option<ApiKeyPlace>, Wrong> {
        let Some(spec) = &self.api_key else { return Ok(None) };
        let found = places(spec.header.as_ref(), spec.cookie.as_deref(), spec.query.as_deref(), at, cx)?;
        let [place] = found.as_slice() else {
            cx.error(at, "an API key is in exactly one place").help("say `header`, `cookie` or `query`");
            return Err(Wrong);
        };
        Ok(Some(ApiKeyPlace(place.clone())))
    }

    fn realm(&self, at: &Path, cx: &mut Context) -> Result<Option<Realm>, Wrong> {
        let Some(spec) = &self.basic else { return Ok(None) };
        let text = spec.realm.as_deref().unwrap_or("restricted");
        match Realm::parse(text) {
            Some(realm) => Ok(Some(realm)),
            None => {
                cx.error(&at.key("realm"), format!("\"{}\" cannot be a realm", text.escape_debug()))
                    .help("1 to 128 characters of ASCII without quotes and backslashes");
                Err(Wrong)
            }
        }
    }
}

/// It is in the report.
struct Wrong;

fn places(
    header: Option<&HeaderName>,
    cookie: Option<&str>,
    query: Option<&str>,
    at: &Path,
    cx: &mut Context,
) -> Result<Vec<Place>, Wrong> {
    // RFC 6265 §4.1.1 cookie-name is a token, which is the grammar of field names, but keeps its case.
    if let Some(cookie) = cookie
        && cookie.parse::<HeaderName>().is_err()
    {
        cx.error(&at.key("cookie"), format!("\"{}\" cannot be the name of a cookie", cookie.escape_debug()));
        return Err(Wrong);
    }
    if query.is_some_and(str::is_empty) {
        cx.error(&at.key("query"), "the name of the query parameter is empty");
        return Err(Wrong);
    }
    let header = header.cloned().map(Place::Header);
    let cookie = cookie.map(|name| Place::Cookie(name.to_owned()));
    let query = query.map(|name| Place::Query(name.to_owned()));
    Ok([header, cookie, query].into_iter().flatten().collect())
}

fn authorization() -> Result<HeaderName, Wrong> {
    "authorization".parse().map_err(|_| Wrong)
}
