//! What this node knew of members, kept on disk: after a restart it is believed until the first checks have ended.

use crate::{
    fleet::Word,
    steer::{Clocks, Recalled, Services},
};
use portcullis_health::HealthState;
use portcullis_names::ObjectName;
use serde::{Deserialize, Serialize};
use std::{
    io::{self, Write},
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

/// The file of one process. Outlives reloads; clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Memory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: Option<PathBuf>,
    recalled: Page,
    epoch: u64,
    /// What was written last.
    last: Mutex<Page>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Page {
    epoch: u64,
    /// Seconds since 1970.
    at: u64,
    members: Vec<Line>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Line {
    service: ObjectName,
    site: ObjectName,
    member: IpAddr,
    state: Word,
}

const FILE: &str = "gslb-health.json";
/// Written at least this often, so that its age says how old the knowledge is.
const REWRITE_SECONDS: u64 = 60;
/// No page of ours is larger.
const OCTETS_MAX: u64 = 64 << 20;

impl Memory {
    /// `state`: a path beside which the file lies. Without one nothing is kept.
    pub(crate) fn open(state: Option<&PathBuf>, unix: u64) -> Self {
        let file = state.map(|state| state.with_file_name(FILE));
        let recalled = file.as_ref().and_then(read).unwrap_or_default();
        // A restart within the second, or with a clock set back, is a later life all the same.
        let epoch = unix.max(recalled.epoch.saturating_add(1));
        Self(Arc::new(Inner { file, recalled, epoch, last: Mutex::default() }))
    }

    /// Larger after each start.
    pub(crate) fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// Tells services that have just begun.
    pub(crate) fn remind(&self, services: &Services, clocks: Clocks) {
        for line in &self.0.recalled.members {
            let recalled = Recalled { word: line.state, at: self.0.recalled.at };
            services.recall(&line.service, &(line.site.clone(), line.member), recalled, clocks);
        }
    }

    /// Writes what is known now, when that is another than what was written, or that is long ago. Waits for the disk.
    pub(crate) fn save(&self, services: &Services, clocks: Clocks) -> io::Result<()> {
        let Some(file) = &self.0.file else { return Ok(()) };
        let members = services.status(clocks).into_iter().filter_map(|member| {
            let state = match member.state {
                HealthState::Up => Word::Up,
                HealthState::Down => Word::Down,
                _ => return None,
            };
            Some(Line { service: member.service, site: member.site, member: member.member, state })
        });
        let page = Page { epoch: self.0.epoch, at: clocks.unix, members: members.collect() };
        {
            let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
            let is_young = clocks.unix.saturating_sub(last.at) < REWRITE_SECONDS;
            if is_young && last.members == page.members {
                return Ok(());
            }
            *last = page.clone();
        }
        let beside = file.with_extension("json.new");
        let mut written = std::fs::File::create(&beside)?;
        written.write_all(&serde_json::to_vec(&page).map_err(io::Error::other)?)?;
        std::fs::rename(beside, file)
    }
}

/// Availability: a file that cannot be read is as if there were none.
fn read(file: &PathBuf) -> Option<Page> {
    let length = std::fs::metadata(file).ok()?.len();
    let text = (length <= OCTETS_MAX).then(|| std::fs::read(file).ok()).flatten()?;
    let page = serde_json::from_slice(&text);
    if let Err(error) = &page {
        tracing::warn!(file = %file.display(), %error, "what was known of members before the restart cannot be read");
    }
    page.ok()
}
