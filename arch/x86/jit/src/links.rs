//! Jumps between translations of different pages, and when they may be taken.
//!
//! A page of code is known by its linear and its guest-physical address, and by what its translations take for granted. An
//! instruction that runs into the next page has a page of its own, known by both guest-physical addresses. The
//! translations of a page are reached from elsewhere (through words of memory, the jump cache) only while it is active: from when
//! the processor was seen to fetch code at that linear address from that guest-physical page, until that may have changed. What
//! leads to a page is kept while it is not active, so that another process that maps the same program finds it again.

use crate::Setting;
use crate::context::Jumps;
use crate::memory::CodeMemory;
use crate::translate::exits::{NewLink, Through};
use crate::translate::{Entries, Wants};
use ring3_x86_cpu::Core;
use rustc_hash::FxHashMap;

/// Address spaces whose active pages are remembered.
const SPACES: usize = 8;

/// No page.
const NOWHERE: u32 = u32::MAX;

/// A jump to another translation.
pub struct Link {
    pub jump: NewLink,
    /// The number of the translation's first word.
    pub word: usize,
    pub setting: Setting,
}

/// Where a trace's translation is, for one linear address.
#[derive(Clone, Copy)]
pub struct Translation {
    pub linear: u64,
    pub setting: Setting,
    /// The number of its page.
    pub page: u32,
    pub entries: Entries,
}

impl Translation {
    /// Where a jump enters it.
    fn entry(&self, jump: &NewLink) -> u64 {
        let entries = &self.entries;
        let by_host = jump.host && (!jump.aside || entries.wants == Wants::Host);
        match (by_host, jump.backward) {
            (true, false) => entries.host,
            (true, true) => entries.checked_host,
            (false, false) => entries.aside,
            (false, true) => entries.checked_aside,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageKey {
    pub linear: u64,
    pub physical: u64,
    /// The page behind it, for the translation of an instruction that runs into that one.
    pub second: Option<u64>,
    pub setting: Setting,
}

struct Page {
    key: PageKey,
    active: bool,
    /// Words that lead here, and where.
    words: Vec<(usize, u64)>,
    /// Translations: linear address, and where they are entered.
    entries: Vec<(u64, u64)>,
}

/// What stamps the code that can be reached now.
#[derive(Clone, Copy, Default, PartialEq)]
struct Epochs {
    local: u64,
    global: u64,
}

#[derive(Default)]
pub struct Links {
    links: Vec<Link>,
    /// The first values of all words, and the page in whose list each was put last.
    words: Vec<u64>,
    led_to: Vec<u32>,
    pages: Vec<Page>,
    by_key: FxHashMap<PageKey, u32>,
    epochs: Epochs,
    /// The active pages of this address space, and of all.
    local: Vec<u32>,
    global: Vec<u32>,
    /// Those of other address spaces, by epoch, the one last left at the end.
    spaces: Vec<(u64, Vec<u32>)>,
    /// The link by which translated code was left.
    pub pending: Option<usize>,
}

impl Links {
    pub fn len(&self) -> usize {
        self.links.len()
    }

    pub fn target(&self, number: usize) -> Option<u64> {
        self.links.get(number).map(|link| link.jump.target)
    }

    pub fn add(&mut self, links: impl Iterator<Item = Link>, words: Vec<u64>) {
        self.links.extend(links);
        self.words.extend(words);
        self.led_to.resize(self.words.len(), NOWHERE);
    }

    /// The number of a page.
    pub fn page(&mut self, key: PageKey) -> u32 {
        let pages = &mut self.pages;
        *self.by_key.entry(key).or_insert_with(|| {
            pages.push(Page {
                key,
                active: false,
                words: Vec::new(),
                entries: Vec::new(),
            });
            pages.len() as u32 - 1
        })
    }

    /// A translation was made.
    pub fn add_entry(&mut self, translation: &Translation) {
        if let Some(page) = self.pages.get_mut(translation.page as usize) {
            page.entries
                .push((translation.linear, translation.entries.checked_aside));
        }
    }

    /// The processor fetches code from the translation's page.
    #[inline(always)]
    pub fn enter(
        &mut self,
        core: &Core,
        translation: &Translation,
        jumps: &mut Jumps,
        memory: &mut CodeMemory,
    ) {
        let Some(page) = self.pages.get(translation.page as usize) else {
            return;
        };
        if !page.active {
            let global = page.key.second.is_none() && core.is_global_code(translation.linear);
            self.activate(translation.page, jumps, memory);
            let list = if global { &mut self.global } else { &mut self.local };
            list.push(translation.page);
        }
        if self.pending.is_some() {
            self.link(translation, memory);
        }
        jumps.remember(
            translation.setting,
            translation.linear,
            translation.entries.checked_aside,
        );
    }

    fn activate(&mut self, number: u32, jumps: &mut Jumps, memory: &mut CodeMemory) {
        let Some(page) = self.pages.get_mut(number as usize) else {
            return;
        };
        page.active = true;
        for (word, code) in &page.words {
            memory.set_word(*word, *code);
        }
        for (linear, code) in &page.entries {
            jumps.remember(page.key.setting, *linear, *code);
        }
    }

    fn deactivate(&mut self, number: u32, jumps: &mut Jumps, memory: &mut CodeMemory) {
        let Some(page) = self.pages.get_mut(number as usize) else {
            return;
        };
        page.active = false;
        for (word, _) in &page.words {
            if let Some(first) = self.words.get(*word) {
                memory.set_word(*word, *first);
            }
        }
        for (linear, code) in &page.entries {
            jumps.forget(page.key.setting, *linear, *code);
        }
    }

    /// Makes the jump by which translated code was left a direct one, if it leads here.
    fn link(&mut self, to: &Translation, memory: &mut CodeMemory) {
        let Some(link) = self.pending.take().and_then(|n| self.links.get(n)) else {
            return;
        };
        if link.jump.target != to.linear || link.setting != to.setting {
            return;
        }
        let code = to.entry(&link.jump);
        match link.jump.through {
            Through::Distance(site) => memory.patch(site, code),
            Through::Word(n) => {
                let word = link.word + n;
                memory.set_word(word, code);
                let Some(led_to) = self.led_to.get_mut(word).filter(|page| **page != to.page) else {
                    return;
                };
                *led_to = to.page;
                if let Some(page) = self.pages.get_mut(to.page as usize) {
                    page.words.push((word, code));
                }
            }
        }
    }

    /// Follows the processor to another address space.
    #[inline(always)]
    pub fn follow(&mut self, core: &Core, jumps: &mut Jumps, memory: &mut CodeMemory) {
        let now = Epochs {
            local: core.epoch,
            global: core.global_epoch,
        };
        if self.epochs != now {
            self.change_space(now, jumps, memory);
        }
    }

    #[inline(never)]
    fn change_space(&mut self, now: Epochs, jumps: &mut Jumps, memory: &mut CodeMemory) {
        let before = std::mem::replace(&mut self.epochs, now);
        self.pending = None;
        if before.global != now.global {
            for number in std::mem::take(&mut self.global) {
                self.deactivate(number, jumps, memory);
            }
        }
        if before.local == now.local {
            return;
        }
        let left = std::mem::take(&mut self.local);
        for number in &left {
            self.deactivate(*number, jumps, memory);
        }
        if before.global != now.global {
            // Then the epochs of all address spaces have ended.
            self.spaces.clear();
            return;
        }
        if self.spaces.len() == SPACES {
            self.spaces.remove(0);
        }
        self.spaces.push((before.local, left));
        if let Some(at) = self.spaces.iter().position(|(epoch, _)| *epoch == now.local) {
            let (_, back) = self.spaces.remove(at);
            for number in back {
                // It may have become active in all address spaces meanwhile.
                if self.pages.get(number as usize).is_some_and(|page| !page.active) {
                    self.activate(number, jumps, memory);
                    self.local.push(number);
                }
            }
        }
    }

    /// The translations of a guest-physical page are gone.
    pub fn drop_page(&mut self, physical: u64, jumps: &mut Jumps, memory: &mut CodeMemory) {
        self.pending = None;
        for number in 0..self.pages.len() as u32 {
            let key = &self.pages[number as usize].key;
            if key.physical == physical || key.second == Some(physical) {
                let active = self.pages[number as usize].active;
                self.deactivate(number, jumps, memory);
                let page = &mut self.pages[number as usize];
                page.active = active;
                page.entries.clear();
                for (word, _) in page.words.drain(..) {
                    if let Some(led_to) = self.led_to.get_mut(word) {
                        *led_to = NOWHERE;
                    }
                }
            }
        }
    }

    /// Nothing is active any more.
    pub fn forget_all(&mut self, jumps: &mut Jumps, memory: &mut CodeMemory) {
        self.pending = None;
        self.spaces.clear();
        let active = std::mem::take(&mut self.local);
        for number in active.into_iter().chain(std::mem::take(&mut self.global)) {
            self.deactivate(number, jumps, memory);
        }
    }

    /// All translations are gone, and the words with them.
    pub fn clear(&mut self) {
        *self = Links {
            epochs: self.epochs,
            ..Links::default()
        };
    }
}
