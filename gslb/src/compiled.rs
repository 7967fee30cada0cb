//! Answers made ahead: for each name and type with records, what stands behind the question. A reply to a question of the same
//! name has the same octets there, pointers included, as the question is as long in any case of letters.

use crate::{
    Name, RecordType, answer,
    message::{Full, Message},
    query::HEADER,
    snapshot::Snapshot,
    zone::NodeKind,
};
use arc_swap::ArcSwapOption;
use foldhash::fast::FixedState;
use std::{collections::HashMap, sync::Arc};

/// By name (in lower case, as on the wire) with the type behind it. What is in the table is the operator's choice, so that a quick
/// hash is enough: who asks cannot make its buckets longer.
#[derive(Debug, Default)]
pub(crate) struct CompiledAnswers(HashMap<Box<[u8]>, CompiledAnswer, FixedState>);

#[derive(Debug)]
pub(crate) struct CompiledAnswer {
    pub(crate) zone: usize,
    plain: Body,
    /// For who wants signatures: made when first asked for, and anew in each time of signatures.
    signed: ArcSwapOption<(u32, Body)>,
}

/// What stands behind the question, and how many records of each section that are.
#[derive(Debug)]
struct Body {
    octets: Box<[u8]>,
    counts: [u16; 3],
}

/// Larger answers are rare, and writing them is not what they cost.
const BODY_MAX: usize = 1_232;

impl CompiledAnswers {
    /// Of all names that have records of their own; what is steered, expanded or delegated is made when it is asked for.
    pub(crate) fn new(snapshot: &Snapshot) -> Self {
        let mut answers = HashMap::default();
        // A fetched zone may expire: it is looked at for each query.
        let own = snapshot.zones.zones.iter().enumerate().filter(|(_, served)| served.secondary.is_none());
        for (index, served) in own {
            let nodes = served.zone.nodes.iter();
            let plain = nodes
                .filter(|(_, node)| matches!(node.kind, NodeKind::Plain | NodeKind::Dname) && node.service.is_none());
            for (name, node) in plain {
                for of_type in node.sets.iter().map(|set| set.of_type) {
                    // A name of the parent zone may be hidden by a zone of its own.
                    if snapshot.zones.find(name.as_wire(), of_type).is_none_or(|(found, _)| found != index) {
                        continue;
                    }
                    if let Some(answer) = compile(snapshot, index, name, of_type) {
                        answers.insert([name.as_wire(), &of_type.0.to_be_bytes()].concat().into(), answer);
                    }
                }
            }
        }
        Self(answers)
    }

    pub(crate) fn get(&self, key_with_type: &[u8]) -> Option<&CompiledAnswer> {
        self.0.get(key_with_type)
    }
}

impl CompiledAnswer {
    /// Adds the answer behind the question; what does not fit is left to whoever can truncate.
    pub(crate) fn write(&self, message: &mut Message<'_>) -> Result<(), Full> {
        message.raw(&self.plain.octets, self.plain.counts)
    }

    /// The same with signatures of this time. `Full` as well when there are none yet.
    pub(crate) fn write_signed(&self, period: u32, message: &mut Message<'_>) -> Result<(), Full> {
        let signed = self.signed.load();
        let (_, body) = signed.as_deref().filter(|(made_in, _)| *made_in == period).ok_or(Full)?;
        message.raw(&body.octets, body.counts)
    }

    /// Keeps an answer that was made with signatures: `octets` is what stands behind the question.
    pub(crate) fn keep_signed(&self, period: u32, octets: &[u8], counts: [u16; 3]) {
        if octets.len() <= BODY_MAX {
            self.signed.store(Some(Arc::new((period, Body { octets: octets.into(), counts }))));
        }
    }
}

fn compile(snapshot: &Snapshot, zone: usize, name: &Name, of_type: RecordType) -> Option<CompiledAnswer> {
    let question = [name.as_wire(), &of_type.0.to_be_bytes(), &[0, 1]].concat();
    let mut out = Vec::new();
    let counts = answer::plain(snapshot, zone, name, of_type, &question, BODY_MAX + HEADER + question.len(), &mut out)?;
    let octets = out.get(HEADER + question.len()..)?.into();
    Some(CompiledAnswer { zone, plain: Body { octets, counts }, signed: ArcSwapOption::empty() })
}
