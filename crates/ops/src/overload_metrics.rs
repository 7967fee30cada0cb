//! The metrics of overload, taken over from [`Shedding`] when somebody looks.

use crate::{Shedding, overload::Resource};
use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry};

/// The families; label values come from closed sets.
#[derive(Debug)]
pub struct OverloadMetrics {
    state: IntGaugeVec,
    pressure: GaugeVec,
    shed: IntCounterVec,
}

impl OverloadMetrics {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let state = Opts::new("portcullis_overload_state", "Whether requests are shed for a resource (1) or not (0).");
        let pressure = Opts::new("portcullis_overload_pressure", "Used share of a watched resource, from 0 to 1.");
        let shed = Opts::new(
            "portcullis_overload_shed_total",
            "Requests turned away for a resource (shed), or that would have been (shadowed).",
        );
        let families = Self {
            state: IntGaugeVec::new(state, &["resource"])?,
            pressure: GaugeVec::new(pressure, &["resource"])?,
            shed: IntCounterVec::new(shed, &["resource", "what"])?,
        };
        registry.register(Box::new(families.state.clone()))?;
        registry.register(Box::new(families.pressure.clone()))?;
        registry.register(Box::new(families.shed.clone()))?;
        Ok(families)
    }

    /// Before each scrape.
    pub fn sync(&self, shedding: &Shedding) {
        let state = shedding.state();
        for resource in Resource::ALL {
            let (name, now) = (resource.as_str(), state.of(resource));
            self.state.with_label_values(&[name]).set(i64::from(now.level.overloaded));
            match now.level.pressure {
                Some(pressure) => self.pressure.with_label_values(&[name]).set(pressure),
                // An error says that there was no such series.
                None => drop(self.pressure.remove_label_values(&[name])),
            }
            for (what, count) in [("shed", now.shed_total), ("shadowed", now.shadowed_total)] {
                let counter = self.shed.with_label_values(&[name, what]);
                counter.inc_by(count.saturating_sub(counter.get()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Overload, OverloadAction,
        overload::{ResourceLevel, ResourceLevels},
    };
    use prometheus::TextEncoder;

    #[test]
    fn a_scrape_shows_how_it_stands() {
        let registry = Registry::new();
        let metrics = OverloadMetrics::new(&registry).unwrap();
        let shedding = Shedding::new(Overload::default());
        let memory = ResourceLevel { pressure: Some(0.97), overloaded: true, shed: 1.0 };
        shedding.publish(ResourceLevels { memory, cpu: ResourceLevel::default() }, OverloadAction::Shed);
        assert!(shedding.sheds(5) && shedding.sheds(6));
        metrics.sync(&shedding);
        metrics.sync(&shedding);
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            "portcullis_overload_state{resource=\"memory\"} 1",
            "portcullis_overload_state{resource=\"cpu\"} 0",
            "portcullis_overload_pressure{resource=\"memory\"} 0.97",
            "portcullis_overload_shed_total{resource=\"memory\",what=\"shed\"} 2",
            "portcullis_overload_shed_total{resource=\"memory\",what=\"shadowed\"} 0",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
        }
        assert!(!text.contains("portcullis_overload_pressure{resource=\"cpu\"}"), "{text}");
        shedding.publish(ResourceLevels::default(), OverloadAction::Shed);
        metrics.sync(&shedding);
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(!text.contains("portcullis_overload_pressure{"), "{text}");
    }
}
