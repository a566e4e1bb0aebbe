//! Members of a sorted set chosen at random.

use std::collections::HashSet;

use haypile_engine::read::Direction;
use haypile_engine::tx::{Read, Tx};
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use super::{Form, MEMBERS, Scored, Zset};
use crate::types::hashed;

/// Above this part of all members it is cheaper to read them all than to choose one at a time.
const CHOOSE_SINGLY_BELOW: usize = 16;

/// Rounds of choosing again what was chosen before: each leaves few, so that many are never needed.
const ROUNDS_MAX: usize = 64;

impl Zset<'_> {
    /// A member chosen at random, evenly (see [`hashed`]); `None` only if there is none.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn random(&self, tx: &mut Tx<'_>, rng: &mut impl Rng) -> Read<Option<Scored>> {
        match &self.form {
            Form::Small(_) if self.is_empty() => Ok(None),
            Form::Small(_) => {
                let rank = rng.random_range(0..self.len());
                Ok(self.by_rank(tx, rank, 1, Direction::Forward)?.pop())
            }
            Form::Large { generation, count, .. } => {
                let found = hashed::random(tx, self.key, *generation, MEMBERS, *count as u64, rng)?;
                found.map(|(member, score)| self.scored(member, &score)).transpose()
            }
        }
    }

    /// `count` different members chosen at random, or all if there are not so many.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn sample(&self, tx: &mut Tx<'_>, count: usize, rng: &mut impl Rng) -> Read<Vec<Scored>> {
        if let Form::Large { generation, count: len, .. } = self.form
            && self.chooses_singly(count)
        {
            let (mut chosen, mut members) = (Vec::new(), HashSet::new());
            // Few of many seldom meet: what did is chosen again.
            for _ in 0..ROUNDS_MAX {
                let lacking = count - chosen.len();
                let more = hashed::random_many(tx, self.key, generation, MEMBERS, len as u64, lacking, rng)?;
                for (member, score) in more {
                    if members.insert(member.clone()) {
                        chosen.push(self.scored(member, &score)?);
                    }
                }
                if chosen.len() == count {
                    return Ok(chosen);
                }
            }
        }
        let mut all = self.all(tx)?;
        if count < all.len() {
            let (chosen, _) = all.partial_shuffle(rng, count);
            return Ok(chosen.to_vec());
        }
        Ok(all)
    }

    /// `count` members chosen at random, each among all.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn sample_with_repeats(
        &self,
        tx: &mut Tx<'_>,
        count: usize,
        rng: &mut impl Rng,
    ) -> Read<Vec<Scored>> {
        let mut chosen = Vec::new();
        if let Form::Large { generation, count: len, .. } = self.form
            && self.chooses_singly(count)
        {
            let page = hashed::random_many(tx, self.key, generation, MEMBERS, len as u64, count, rng)?;
            return page.into_iter().map(|(member, score)| self.scored(member, &score)).collect();
        }
        let all = self.all(tx)?;
        if !all.is_empty() {
            chosen.extend((0..count).map(|_| all[rng.random_range(0..all.len())].clone()));
        }
        Ok(chosen)
    }

    fn chooses_singly(&self, count: usize) -> bool {
        matches!(self.form, Form::Large { .. }) && count <= self.len() / CHOOSE_SINGLY_BELOW
    }
}
