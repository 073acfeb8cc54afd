//! The client's face: the states of KVM_GET_PIT2, KVM_SET_PIT2, KVM_GET_PIT and KVM_SET_PIT.

use super::Pit;
use crate::ports::TimerPort;
use ring3_uapi::x86::{KVM_PIT_FLAGS_HPET_LEGACY, KvmPitChannelState, KvmPitState, KvmPitState2};

/// Whether the client's HPET takes the interrupt over with this state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hpet {
    Unchanged,
    Starts,
}

impl Pit {
    pub fn state2(&self) -> KvmPitState2 {
        KvmPitState2 {
            channels: self.channel_states(),
            flags: self.flags,
            ..KvmPitState2::default()
        }
    }

    pub fn state(&self) -> KvmPitState {
        KvmPitState {
            channels: self.channel_states(),
        }
    }

    fn channel_states(&self) -> [KvmPitChannelState; 3] {
        [0, 1, 2].map(|n| self.channels[n].state())
    }

    /// Replace the state. Every channel starts over from its initial count.
    pub fn set_state2(&mut self, state: &KvmPitState2, port: &mut dyn TimerPort) {
        let starts = state.flags & !self.flags & KVM_PIT_FLAGS_HPET_LEGACY != 0;
        self.flags = state.flags;
        self.set_channels(
            &state.channels,
            if starts { Hpet::Starts } else { Hpet::Unchanged },
            port,
        );
    }

    /// The older form, without flags.
    pub fn set_state(&mut self, state: &KvmPitState, port: &mut dyn TimerPort) {
        self.set_channels(&state.channels, Hpet::Unchanged, port);
    }

    fn set_channels(&mut self, states: &[KvmPitChannelState; 3], hpet: Hpet, port: &mut dyn TimerPort) {
        for (channel, state) in self.channels.iter_mut().zip(states) {
            channel.set_state(state);
        }
        for (n, state) in states.iter().enumerate() {
            self.load(n, state.count, port);
        }
        if hpet == Hpet::Starts {
            self.stop(port);
        }
    }
}
