//! What is searched for in which value, for all rules that run at one paranoia level.

use std::collections::{BTreeMap, BTreeSet};

use super::Mask;
use super::content::{Alphabet, ChainId, Chains, Content, Filter, Side};
use super::grams::Grams;
use super::recurring::{self, Audience};
use crate::operator::{ByteSet, may_be_sql};
use crate::seclang::variable::Variable;
use crate::transaction::origin::{Origin, STABLE_SCALARS};

/// The search for one paranoia level.
#[derive(Debug)]
pub(super) struct Plan {
    /// The rules that are searched for.
    pub(super) active: Mask,
    sites: Vec<Site>,
    scalars: Vec<(Variable, Load)>,
    /// By the alphabet of the value.
    request: [Search; Alphabet::ALL.len()],
    /// Bodies are large and of every kind: one search does for them.
    response: Search,
}

/// One kind of values: what to do with members that rules name, and with all others.
#[derive(Debug)]
struct Site {
    /// By length of the name; the last place is for all longer ones.
    named: Vec<Vec<(Box<[u8]>, Load)>>,
    other: Load,
}

/// Names longer than this share a place.
const NAME_LENGTHS: usize = 32;

/// The rules that look at a value, by the form in which they look at it.
#[derive(Debug, Clone)]
pub(super) struct Load {
    /// All of them; empty when nothing is to be done.
    pub(super) all: Mask,
    pub(super) idle: bool,
    /// A value without any of these is the same in all its forms; `None` when that is never so.
    pub(super) triggers: Option<ByteSet>,
    pub(super) groups: Vec<Group>,
    /// Rules that look at a value in more than one form.
    pub(super) several: Mask,
    pub(super) side: Side,
    /// Under which its values are remembered, where they recur and are no secret.
    pub(super) audience: Option<Audience>,
}

/// Chains that the same bytes set off, so that one look at a value spares them all.
#[derive(Debug, Clone)]
pub(super) struct Group {
    /// As of a [`Chain`](super::content::Chain).
    pub(super) triggers: Option<ByteSet>,
    pub(super) chains: Vec<(ChainId, Mask)>,
}

impl Plan {
    pub(super) fn new(contents: &[Content], chains: &Chains, is_active: impl Fn(&Content) -> bool) -> Self {
        let words = contents.len().div_ceil(64);
        let mut active = Mask::empty(words);
        for (number, content) in contents.iter().enumerate() {
            if is_active(content) {
                active.insert(number);
            }
        }
        let builder = Builder { contents, chains, active: &active, words };
        let sites = Origin::COLLECTIONS.iter().map(|origin| builder.site(*origin)).collect();
        let scalars = STABLE_SCALARS.iter().map(|variable| {
            let looks = |content: &Content| content.looks_at_scalar(*variable);
            (*variable, builder.load(looks, side_of(*variable)))
        });
        let scalars = scalars.filter(|(_, load)| !load.idle).collect();
        let request = Alphabet::ALL.map(|alphabet| builder.search(Side::Request, alphabet));
        let response = builder.search(Side::Response, Alphabet::Any);
        Self { sites, scalars, request, response, active }
    }

    /// What to do with a member of a collection; `origin` by its place among [`Origin::COLLECTIONS`].
    #[inline]
    pub(super) fn member(&self, origin: usize, name: &[u8]) -> Option<&Load> {
        let site = self.sites.get(origin)?;
        let same_length = site.named.get(name.len().min(NAME_LENGTHS)).map_or(&[][..], Vec::as_slice);
        let named = same_length.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let load = named.map_or(&site.other, |(_, load)| load);
        (!load.idle).then_some(load)
    }

    pub(super) fn scalars(&self) -> &[(Variable, Load)] {
        &self.scalars
    }

    /// The search for values that consist of these bytes.
    pub(super) fn search(&self, side: Side, present: ByteSet) -> &Search {
        let [names, texts, all] = &self.request;
        match side {
            Side::Response => &self.response,
            Side::Request if !present.meets(names.outside) => names,
            Side::Request if !present.meets(texts.outside) => texts,
            Side::Request => all,
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.request.iter().chain([&self.response]).map(|search| search.grams.memory_bytes()).sum()
    }
}

fn side_of(variable: Variable) -> Side {
    match variable {
        Variable::ResponseBody | Variable::ResponseContentType => Side::Response,
        _ => Side::Request,
    }
}

struct Builder<'b> {
    contents: &'b [Content],
    chains: &'b Chains,
    active: &'b Mask,
    words: usize,
}

impl<'b> Builder<'b> {
    fn active(&self) -> impl Iterator<Item = (usize, &'b Content)> {
        let contents = self.contents;
        self.active.members().filter_map(move |number| Some((number, contents.get(number)?)))
    }

    fn site(&self, origin: Origin) -> Site {
        let side = match origin {
            Origin::ResponseHeaderName | Origin::ResponseHeaderValue => Side::Response,
            _ => Side::Request,
        };
        let mut other = self.load(|content| content.looks_at(origin, None), side);
        other.audience = origin.is_name().then(Audience::new).flatten();
        let ruled = self.active().flat_map(|(_, content)| content.names(origin).map(<[u8]>::to_ascii_lowercase));
        let mut names: BTreeSet<Vec<u8>> = ruled.collect();
        let recurring = if origin.is_header_value() { recurring::HEADERS } else { &[] };
        names.extend(recurring.iter().map(|name| name.as_bytes().to_vec()));
        let mut named: Vec<Vec<(Box<[u8]>, Load)>> = vec![Vec::new(); NAME_LENGTHS + 1];
        for name in names {
            let mut load = self.load(|content| content.looks_at(origin, Some(&name)), side);
            let recurs = recurring.iter().any(|recurring| recurring.as_bytes() == name);
            load.audience = (recurs || origin.is_name()).then(Audience::new).flatten();
            if let Some(place) = named.get_mut(name.len().min(NAME_LENGTHS)) {
                place.push((name.into(), load));
            }
        }
        Site { named, other }
    }

    fn load(&self, looks: impl Fn(&Content) -> bool, side: Side) -> Load {
        let mut all = Mask::empty(self.words);
        let mut several = Mask::empty(self.words);
        let mut chains: BTreeMap<ChainId, Mask> = BTreeMap::new();
        for (number, content) in self.active().filter(|(_, content)| looks(content)) {
            all.insert(number);
            if content.chains.len() > 1 {
                several.insert(number);
            }
            for chain in &content.chains {
                chains.entry(*chain).or_insert_with(|| Mask::empty(self.words)).insert(number);
            }
        }
        let mut groups: Vec<Group> = Vec::new();
        for (id, rules) in chains {
            let Some(triggers) = self.chains.get(id).map(|chain| chain.triggers) else { continue };
            match groups.iter_mut().find(|group| group.triggers == triggers) {
                Some(group) => group.chains.push((id, rules)),
                None => groups.push(Group { triggers, chains: vec![(id, rules)] }),
            }
        }
        let triggers = groups.iter().try_fold(ByteSet::default(), |all, group| Some(all.union(group.triggers?)));
        Load { idle: all.is_empty(), all, triggers, groups, several, side, audience: None }
    }

    fn search(&self, side: Side, alphabet: Alphabet) -> Search {
        let mut owners: BTreeMap<&[u8], Vec<u16>> = BTreeMap::new();
        let mut search = Search {
            outside: alphabet.bytes().inverse(),
            grams: Grams::new(BTreeMap::new()),
            by_literal: Mask::empty(self.words),
            direct: Mask::empty(self.words),
            needs: vec![Need::Bytes(ByteSet::default()); self.contents.len()],
        };
        for (number, content) in self.active().filter(|(_, content)| content.side == side) {
            let Some(filter) = content.filters.get(alphabet as usize) else { continue };
            let need = match filter {
                Filter::Never => continue,
                Filter::Literals(literals) => {
                    search.by_literal.insert(number);
                    for literal in literals {
                        owners.entry(literal).or_default().extend(u16::try_from(number));
                    }
                    continue;
                }
                Filter::Bytes(bytes) => Need::Bytes(*bytes),
                Filter::Sql => Need::Sql,
            };
            search.direct.insert(number);
            if let Some(place) = search.needs.get_mut(number) {
                *place = need;
            }
        }
        search.grams = Grams::new(owners);
        search
    }
}

/// What a value must hold for a rule without literals.
#[derive(Debug, Clone, Copy)]
pub(super) enum Need {
    Bytes(ByteSet),
    Sql,
}

/// All that is searched for on one side of a transaction.
#[derive(Debug)]
pub(super) struct Search {
    /// Values that hold one of these bytes are searched by another.
    outside: ByteSet,
    /// The literals, and the rules that each speaks for.
    grams: Grams,
    by_literal: Mask,
    direct: Mask,
    needs: Vec<Need>,
}

impl Search {
    /// Adds to `hits` the rules of `mask` that the text may satisfy; `present` are its bytes.
    pub(super) fn run(&self, text: &[u8], present: ByteSet, mask: &Mask, hits: &mut Mask) {
        if mask.meets(&self.by_literal) {
            self.grams.each_match(text, present, |owners| {
                for rule in owners.iter().map(|rule| usize::from(*rule)) {
                    if mask.contains(rule) {
                        hits.insert(rule);
                    }
                }
            });
        }
        for (at, (wanted, looked_for)) in mask.0.iter().zip(&self.direct.0).enumerate() {
            for bit in super::bits(wanted & looked_for) {
                let rule = at * 64 + bit;
                let may_match = match self.needs.get(rule) {
                    Some(Need::Bytes(bytes)) => bytes.meets(present),
                    Some(Need::Sql) => may_be_sql(text),
                    None => true,
                };
                if may_match {
                    hits.insert(rule);
                }
            }
        }
    }
}
