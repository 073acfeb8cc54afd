use super::*;

fn link(answer: u32, before: Option<&Arc<Link>>) -> Arc<Link> {
    let returns = Instruction {
        code: 6,
        yes: 0,
        no: 0,
        k: answer,
    };
    Arc::new(Link {
        program: Program::new(vec![returns]).unwrap(),
        before: before.cloned(),
    })
}

fn answer_of(all: &[u32]) -> u32 {
    let mut newest: Option<Arc<Link>> = None;
    for one in all {
        newest = Some(link(*one, newest.as_ref()));
    }
    answer(&newest.unwrap(), &Data::default())
}

#[test]
fn the_gravest_answer_counts() {
    let in_order = [
        libc::SECCOMP_RET_KILL_PROCESS,
        libc::SECCOMP_RET_KILL_THREAD,
        libc::SECCOMP_RET_TRAP,
        libc::SECCOMP_RET_ERRNO | 1,
        libc::SECCOMP_RET_USER_NOTIF,
        libc::SECCOMP_RET_TRACE,
        libc::SECCOMP_RET_LOG,
        libc::SECCOMP_RET_ALLOW,
    ];
    for (n, graver) in in_order.iter().enumerate() {
        for other in &in_order[n..] {
            assert_eq!(answer_of(&[*graver, *other]), *graver);
            assert_eq!(answer_of(&[*other, *graver]), *graver);
        }
    }
}

#[test]
fn of_equal_answers_the_newest_counts() {
    let errno = |n| libc::SECCOMP_RET_ERRNO | n;
    assert_eq!(
        answer_of(&[errno(1), errno(2), libc::SECCOMP_RET_ALLOW]),
        errno(2)
    );
}

#[test]
fn ancestors_are_known() {
    let first = link(0, None);
    let second = link(0, Some(&first));
    let programs = |link: &Arc<Link>| Filters::Programs(link.clone());
    assert!(is_ancestor(&Filters::None, None) && is_ancestor(&Filters::None, Some(&first)));
    assert!(is_ancestor(&programs(&first), Some(&second)) && is_ancestor(&programs(&second), Some(&second)));
    assert!(!is_ancestor(&programs(&second), Some(&first)) && !is_ancestor(&programs(&first), None));
    assert!(!is_ancestor(&programs(&link(0, None)), Some(&second)));
    assert!(!is_ancestor(&Filters::Strict, Some(&second)));
}
