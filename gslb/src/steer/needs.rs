//! Services that need others: a site of the one is fit only while the site of the same name of the other is.

use super::{Served, services::Services};
use portcullis_config::{Context, Path};
use portcullis_names::ObjectName;

/// What is known of the services that one needs, site by site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    Nothing,
    /// A service that it needs has no fit site of this name.
    Something,
}

impl Services {
    /// Links services to those that they need; what is wrong with that is told.
    pub(super) fn link(&mut self, cx: &mut Context) {
        let root = Path::root().key("public_service");
        for index in 0..self.list.len() {
            let Some(served) = self.list.get(index) else { continue };
            let (name, wanted) = (served.service.name.clone(), served.service.terms.needs.clone());
            let at = root.key(&name).key("needs");
            let mut needs = Vec::with_capacity(wanted.len());
            for (place, other) in wanted.iter().enumerate() {
                match self.by_name.get(other) {
                    None => {
                        let known = self.list.iter().map(|served| served.service.name.as_str());
                        cx.undefined(&at.index(place), "public_service", other.as_str(), known.collect::<Vec<_>>());
                    }
                    Some(other) => needs.push(*other),
                }
            }
            for (place, other) in needs.iter().enumerate() {
                if !self.shares_site(index, *other) {
                    cx.error(&at.index(place), "the two have no site in common: this has no effect")
                        .help("sites of one name belong together");
                }
            }
            for other in &needs {
                if let Some(other) = self.list.get_mut(*other) {
                    other.needed_by.push(index);
                }
            }
            if let Some(served) = self.list.get_mut(index) {
                served.needs = needs;
            }
        }
        for index in 0..self.list.len() {
            if self.reaches(index, index)
                && let Some(served) = self.list.get(index)
            {
                let at = root.key(&served.service.name).key("needs");
                cx.error(&at, "it needs itself, by way of others: neither would come back");
            }
        }
    }

    fn shares_site(&self, one: usize, other: usize) -> bool {
        let names = |index: usize| -> Vec<&ObjectName> {
            self.list.get(index).map_or_else(Vec::new, |served| served.service.sites.iter().map(|s| &s.name).collect())
        };
        let others = names(other);
        names(one).into_iter().any(|name| others.contains(&name))
    }

    /// Whether `from` needs `to`, directly or not.
    fn reaches(&self, from: usize, to: usize) -> bool {
        let mut seen = vec![false; self.list.len()];
        let mut open: Vec<usize> = self.list.get(from).map_or_else(Vec::new, |served| served.needs.clone());
        while let Some(next) = open.pop() {
            if next == to {
                return true;
            }
            if let Some(mark) = seen.get_mut(next)
                && !std::mem::replace(mark, true)
            {
                open.extend(self.list.get(next).into_iter().flat_map(|served| served.needs.iter().copied()));
            }
        }
        false
    }

    /// What each site of a service lacks.
    pub(super) fn lacks(&self, served: &Served) -> Vec<Lack> {
        let lack = |site: &ObjectName| {
            let needed = served.needs.iter().filter_map(|index| self.list.get(*index));
            let is_lacking = needed.filter_map(|other| other.has_fit(site)).any(|is_fit| !is_fit);
            if is_lacking { Lack::Something } else { Lack::Nothing }
        };
        served.service.sites.iter().map(|site| lack(&site.name)).collect()
    }

    /// Those that need it follow a service that has changed. Needs have no circles.
    pub(super) fn tell_dependents(&self, served: &Served, clocks: super::Clocks) {
        for dependent in served.needed_by.iter().filter_map(|index| self.list.get(*index)) {
            dependent.follow(self.lacks(dependent), self.fleet.as_deref(), clocks);
            self.tell_dependents(dependent, clocks);
        }
    }
}
