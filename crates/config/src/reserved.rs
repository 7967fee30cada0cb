//! What the language has and this version has not.

use crate::trail::Trail;

/// A key or value that is known to the language and not built yet: `route.*.waf`, `listener.*.protocol=udp`. `*` stands
/// for any one key; indices of arrays are left out.
#[derive(Debug, Clone, Copy)]
pub struct Reserved(pub &'static str);

impl Reserved {
    pub(crate) fn is_key(&self, at: &Trail<'_>) -> bool {
        !self.0.contains('=') && fits(self.0, at)
    }

    pub(crate) fn is_value(&self, at: &Trail<'_>, value: &str) -> bool {
        self.0.split_once('=').is_some_and(|(pattern, wanted)| wanted == value && fits(pattern, at))
    }
}

fn fits(pattern: &str, at: &Trail<'_>) -> bool {
    let (mut want, mut have) = (pattern.rsplit('.'), at.keys_upwards());
    loop {
        match (want.next(), have.next()) {
            (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(want), Some(have)) if want == have => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_paths_and_skip_indices() {
        let root = Trail::Root;
        let kind = root.key("upstream");
        let shop = kind.key("shop");
        let endpoints = shop.key("endpoints");
        let first = endpoints.index(0);
        let zone = first.key("zone");
        for (pattern, fits) in [
            ("upstream.*.endpoints.zone", true),
            ("upstream.shop.endpoints.zone", true),
            ("upstream.*.zone", false),
            ("endpoints.zone", false),
            ("upstream.*.endpoints", false),
        ] {
            assert_eq!(Reserved(pattern).is_key(&zone), fits, "{pattern}");
        }
        assert!(Reserved("upstream.*.endpoints.zone=eu").is_value(&zone, "eu"));
        assert!(!Reserved("upstream.*.endpoints.zone=eu").is_key(&zone));
    }
}
