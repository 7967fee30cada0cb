//! A compiled `[privacy.NAME]`.

use crate::{Detector, DetectorSpec, PrivacyAction, PrivacySpec, Rule, detector::Custom, pattern::Pattern};
use portcullis_config::{Context, Path};
use std::sync::Arc;

/// What is looked for, and what is done about it in each direction.
#[derive(Debug, Clone)]
pub struct Profile {
    detectors: Vec<Arc<Detector>>,
    request: PrivacyAction,
    response: PrivacyAction,
}

impl Profile {
    pub fn compile(spec: &PrivacySpec, at: &Path, cx: &mut Context) -> Self {
        let action = spec.action.unwrap_or(PrivacyAction::Log);
        let (request, response) = (spec.request.unwrap_or(action), spec.response.unwrap_or(action));
        if request == PrivacyAction::Off && response == PrivacyAction::Off {
            cx.error_at_key(at, "nothing is looked at: both directions are off").help("leave the profile out instead");
        }
        if spec.action.is_some() && spec.request.is_some() && spec.response.is_some() {
            cx.error(&at.key("action"), "`request` and `response` say it all: `action` has no effect");
        }
        let mut detectors: Vec<Arc<Detector>> = Vec::new();
        for (index, one) in spec.detect.iter().enumerate() {
            let here = at.key("detect").index(index);
            let Some(detector) = compile_detector(one, &here, cx) else { continue };
            if detectors.iter().any(|known| known.name() == detector.name()) {
                cx.error(&here, format!("`{}` is looked for twice", detector.name()));
            }
            detectors.push(Arc::new(detector));
        }
        Self { detectors, request, response }
    }

    pub fn request_rules(&self) -> impl Iterator<Item = Rule> {
        self.rules(self.request)
    }

    pub fn response_rules(&self) -> impl Iterator<Item = Rule> {
        self.rules(self.response)
    }

    fn rules(&self, action: PrivacyAction) -> impl Iterator<Item = Rule> {
        self.detectors.iter().map(move |detector| Rule { detector: detector.clone(), action })
    }
}

fn compile_detector(spec: &DetectorSpec, at: &Path, cx: &mut Context) -> Option<Detector> {
    let (name, regex) = match spec {
        DetectorSpec::Card => return Some(Detector::Card),
        DetectorSpec::Iban => return Some(Detector::Iban),
        DetectorSpec::UsSsn => return Some(Detector::UsSsn),
        DetectorSpec::Custom { name, regex } => (name, regex),
    };
    if matches!(name.as_str(), "card" | "iban" | "us_ssn") {
        cx.error(&at.key("name"), format!("`{name}` is the name of one of ours")).help("choose another");
    }
    match Pattern::compile(regex) {
        Ok(pattern) => Some(Detector::Custom(Custom { name: name.to_string(), text: regex.clone(), pattern })),
        Err((what, way_out)) => {
            cx.error(&at.key("regex"), what).help(way_out);
            None
        }
    }
}
