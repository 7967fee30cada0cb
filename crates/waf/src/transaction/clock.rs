//! The `TIME_*` variables, in UTC.

use std::time::Duration;

use crate::seclang::variable::Variable;

/// The text of a time variable.
pub(super) fn read(variable: Variable, now: Duration) -> Vec<u8> {
    let seconds = now.as_secs();
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let (year, month, day) = civil(days);
    match variable {
        Variable::Time => format!("{hour:02}:{minute:02}:{second:02}"),
        Variable::TimeDay => day.to_string(),
        Variable::TimeHour => hour.to_string(),
        Variable::TimeMin => minute.to_string(),
        // C counts months from zero, and so do the rules.
        Variable::TimeMon => (month - 1).to_string(),
        Variable::TimeSec => second.to_string(),
        // The epoch was a Thursday.
        Variable::TimeWday => ((days + 4) % 7).to_string(),
        Variable::TimeYear => year.to_string(),
        _ => seconds.to_string(),
    }
    .into_bytes()
}

/// Year, month and day of a count of days since the epoch (Howard Hinnant's `civil_from_days`, for days from zero).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read_as_utc() {
        let at = |variable, seconds| String::from_utf8(read(variable, Duration::from_secs(seconds))).unwrap();
        assert_eq!(at(Variable::Time, 1_700_000_000), "22:13:20");
        let parts = [Variable::TimeYear, Variable::TimeMon, Variable::TimeDay, Variable::TimeWday];
        assert_eq!(parts.map(|part| at(part, 1_700_000_000)), ["2023", "10", "14", "2"]);
        assert_eq!(parts.map(|part| at(part, 951_782_400)), ["2000", "1", "29", "2"]);
        assert_eq!(at(Variable::TimeEpoch, 7), "7");
    }
}
