//! All keepers of the process: starts one for each model that is desired, tells it what changes, and lets it go when its
//! model is not desired any more.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};

use super::keeper::{EngineDied, Keeper, Order};
use super::{Defaults, Desired, ModelName, Workshop};

/// Commands that wait; whoever sends more waits too.
const COMMANDS: usize = 16;

/// The keepers.
pub struct Fleet {
    workshop: Workshop,
    defaults: Arc<Defaults>,
    orders: BTreeMap<ModelName, watch::Sender<Order>>,
    running: FuturesUnordered<BoxFuture<'static, Result<(), EngineDied>>>,
    commands: mpsc::Receiver<Command>,
}

/// Asks the keepers for something by hand.
#[derive(Clone)]
pub struct FleetHandle(mpsc::Sender<Command>);

enum Command {
    Retry(ModelName),
    Reload(ModelName),
}

impl FleetHandle {
    /// Lets the wanted revision of a model be tried again although it has failed.
    pub async fn retry(&self, model: ModelName) {
        // Without a fleet the process ends.
        drop(self.0.send(Command::Retry(model)).await);
    }

    /// Loads the wanted revision of a model once more, files included.
    pub async fn reload(&self, model: ModelName) {
        drop(self.0.send(Command::Reload(model)).await);
    }
}

impl Fleet {
    /// A fleet without models, and the handle to command it.
    pub fn new(workshop: Workshop, defaults: Defaults) -> (Self, FleetHandle) {
        let (sender, commands) = mpsc::channel(COMMANDS);
        let fleet = Self {
            workshop,
            defaults: Arc::new(defaults),
            orders: BTreeMap::new(),
            running: FuturesUnordered::new(),
            commands,
        };
        (fleet, FleetHandle(sender))
    }

    /// Keeps what is desired; `None` means that nobody knows yet.
    ///
    /// # Errors
    /// The engine of a model has died: the process cannot go on.
    pub async fn run(
        mut self,
        mut desired: watch::Receiver<Option<Desired>>,
    ) -> Result<std::convert::Infallible, EngineDied> {
        loop {
            let wanted = desired.borrow_and_update().clone();
            if let Some(wanted) = wanted {
                self.follow(&wanted);
                self.workshop.registry.set_synced();
            }
            loop {
                tokio::select! {
                    changed = desired.changed() => match changed {
                        Ok(()) => break,
                        // Nobody can change it any more, which is no reason to end what serves.
                        Err(_closed) => std::future::pending::<()>().await,
                    },
                    Some(command) = self.commands.recv() => self.command(command),
                    Some(ended) = self.running.next() => ended?,
                }
            }
        }
    }

    fn follow(&mut self, wanted: &Desired) {
        self.orders.retain(|key, _| {
            let stays = wanted.contains_key(key);
            if !stays {
                self.workshop.registry.remove(key);
            }
            stays
        });
        for (key, target) in wanted {
            let slot = self.workshop.registry.set(target);
            if let Some(orders) = self.orders.get(key) {
                orders.send_modify(|order| order.target = Arc::clone(target));
                continue;
            }
            let order = Order { target: Arc::clone(target), reloads: 0, retries: 0 };
            let (sender, orders) = watch::channel(order);
            let keeper = Keeper::new(self.workshop.clone(), Arc::clone(&self.defaults), slot, orders);
            self.orders.insert(key.clone(), sender);
            self.running.push(Box::pin(keeper.run()));
        }
    }

    fn command(&self, command: Command) {
        let (model, retry, reload) = match command {
            Command::Retry(model) => (model, 1, 0),
            Command::Reload(model) => (model, 1, 1),
        };
        if let Some(orders) = self.orders.get(&model) {
            orders.send_modify(|order| {
                order.retries += retry;
                order.reloads += reload;
            });
        }
    }
}
