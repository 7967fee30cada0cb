//! What operators ordered over published services: in force in the snapshot, kept in a file beside the admin socket.

use portcullis_gslb::{Clocks, Order, OrderError, Ordered, Snapshot, Standing};
use std::{io::Write, path::PathBuf};

/// The orders of one gateway. They hold over reloads and restarts, until they end or are taken back.
#[derive(Debug)]
pub(crate) struct OrderFile {
    file: PathBuf,
    /// Also those whose service or site is not in the configuration now: it may come back.
    orders: Vec<Order>,
    keeping: Keeping,
}

/// Whether the file is ours to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeping {
    On,
    /// It holds what could not be read, and stays as it is for the operator to repair.
    Off,
    /// A successor has read it, and keeps it from now on.
    Successor,
}

/// Why an order is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderRefused {
    #[error(transparent)]
    Wrong(#[from] OrderError),
    #[error("a new process is taking over; tell it when it serves")]
    Successor,
    #[error("there is no such order in force (`portcullis gslb status` shows them)")]
    Absent,
}

impl OrderFile {
    /// Reads `file`, if there is one.
    pub(crate) fn open(file: PathBuf) -> Self {
        let (orders, keeping) = match read(&file) {
            Ok(orders) => (orders, Keeping::On),
            Err(why) => {
                // Availability: zones are served all the same. Safety: what is in the file may be a site that was taken off;
                // it is neither forgotten silently nor written over.
                tracing::error!(
                    file = %file.display(),
                    why,
                    "the orders of operators cannot be read: none is in force, and nothing is written; repair the file or \
                     remove it, then restart"
                );
                (Vec::new(), Keeping::Off)
            }
        };
        Self { file, orders, keeping }
    }

    /// Puts the orders in force in a snapshot that begins to serve.
    pub(crate) fn place(&mut self, snapshot: &Snapshot, clocks: Clocks) {
        self.orders.retain(|order| order.until > clocks.unix);
        for order in &self.orders {
            if let Err(error) = snapshot.order(order.clone(), clocks) {
                tracing::warn!(%error, author = order.author, reason = order.reason, "an order has nothing to apply to");
            }
        }
    }

    pub(crate) fn order(&mut self, snapshot: &Snapshot, order: Order, clocks: Clocks) -> Result<(), OrderRefused> {
        if self.keeping == Keeping::Successor {
            return Err(OrderRefused::Successor);
        }
        snapshot.order(order.clone(), clocks)?;
        tracing::warn!(
            service = %order.target.service,
            site = %order.target.site,
            member = ?order.target.member,
            forced = ?order.forced,
            author = order.author,
            reason = order.reason,
            from = order.from,
            until = order.until,
            "ordered by an operator"
        );
        self.orders.retain(|other| other.target != order.target && other.until > clocks.unix);
        self.orders.push(order);
        self.save();
        Ok(())
    }

    pub(crate) fn withdraw(
        &mut self,
        snapshot: &Snapshot,
        target: &Ordered,
        author: &str,
        clocks: Clocks,
    ) -> Result<(), OrderRefused> {
        if self.keeping == Keeping::Successor {
            return Err(OrderRefused::Successor);
        }
        // It may have been given elsewhere a moment ago.
        self.follow(snapshot, clocks);
        let given = |order: &&Order| order.target == *target && order.standing == Standing::Given;
        let order = self.orders.iter().find(given).cloned().ok_or(OrderRefused::Absent)?;
        self.orders.retain(|order| order.target != *target);
        match snapshot.stamp(clocks) {
            None => snapshot.withdraw(target, clocks),
            // In a fleet that it was taken back is a word like another: it spreads, and stays as long as the order would have.
            Some(stamp) => {
                let back = Order { standing: Standing::TakenBack, author: author.to_owned(), stamp, ..order };
                snapshot.order(back.clone(), clocks)?;
                self.orders.push(back);
            }
        }
        tracing::warn!(service = %target.service, site = %target.site, member = ?target.member, author, "order taken back");
        self.save();
        Ok(())
    }

    /// Takes over what the fleet has ordered elsewhere: it must hold over a restart, whoever is there then.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot, clocks: Clocks) {
        if self.keeping != Keeping::On {
            return;
        }
        let mut is_news = false;
        for order in snapshot.orders() {
            let known = self.orders.iter().position(|own| own.target == order.target);
            match known.and_then(|index| self.orders.get_mut(index)) {
                Some(own) if own.stamp >= order.stamp => continue,
                Some(own) => *own = order.clone(),
                None => self.orders.push(order.clone()),
            }
            is_news = true;
            tracing::warn!(
                service = %order.target.service,
                site = %order.target.site,
                member = ?order.target.member,
                forced = ?order.forced,
                standing = ?order.standing,
                author = order.author,
                reason = order.reason,
                node = ?order.stamp.node,
                "ordered by an operator at another node"
            );
        }
        if is_news {
            self.orders.retain(|order| order.until > clocks.unix);
            self.save();
        }
    }

    /// Those that have not ended, and were not taken back.
    pub(crate) fn all(&self, clocks: Clocks) -> Vec<Order> {
        let holds = |order: &&Order| order.until > clocks.unix && order.standing == Standing::Given;
        self.orders.iter().filter(holds).cloned().collect()
    }

    /// A successor is about to read the file.
    pub(crate) fn rest(&mut self) {
        if self.keeping == Keeping::On {
            self.keeping = Keeping::Successor;
        }
    }

    /// The successor is gone.
    pub(crate) fn go_on(&mut self) {
        if self.keeping == Keeping::Successor {
            self.keeping = Keeping::On;
        }
    }

    /// Writes beside the file and renames: a crash leaves the old orders or the new ones.
    fn save(&self) {
        if self.keeping != Keeping::On {
            tracing::error!("an operator's order holds until a restart: the file of orders is not ours to write");
            return;
        }
        let beside = self.file.with_extension("json.new");
        let written = serde_json::to_vec_pretty(&self.orders).map_err(std::io::Error::other).and_then(|text| {
            let mut file = std::fs::File::create(&beside)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&beside, &self.file)
        });
        // Availability: a full disk must not keep an operator from taking a site off.
        if let Err(error) = written {
            tracing::error!(file = %self.file.display(), %error, "orders cannot be kept: they hold until a restart");
        }
    }
}

/// A file that is not there holds no orders; any other trouble is not the same.
fn read(file: &std::path::Path) -> Result<Vec<Order>, String> {
    match std::fs::read_to_string(file) {
        Ok(text) => serde_json::from_str(&text).map_err(|error| error.to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error.to_string()),
    }
}
