/* A binary search tree: following pointers down, building it up, taking it apart. */
#include "bench.h"

const char NAME[] = "tree";
const unsigned PASSES = 120;

#define NODES 16384

struct node {
    struct node *less, *more;
    uint64_t key, count;
};

static struct node pool[NODES];
static size_t used;

/* Where the link to `key` is, or would be. */
static struct node **place(struct node **root, uint64_t key)
{
    while (*root != NULL && (*root)->key != key)
        root = key < (*root)->key ? &(*root)->less : &(*root)->more;
    return root;
}

static void insert(struct node **root, uint64_t key)
{
    struct node **link = place(root, key);
    if (*link == NULL) {
        *link = &pool[used++];
        **link = (struct node){NULL, NULL, key, 0};
    }
    (*link)->count++;
}

static void take_out(struct node **root, uint64_t key)
{
    struct node **link = place(root, key), *gone = *link;
    if (gone == NULL)
        return;
    if (gone->less == NULL || gone->more == NULL) {
        *link = gone->less != NULL ? gone->less : gone->more;
        return;
    }
    /* The next larger key takes its place. */
    struct node **next = &gone->more;
    while ((*next)->less != NULL)
        next = &(*next)->less;
    struct node *heir = *next;
    *next = heir->more;
    heir->less = gone->less;
    heir->more = gone->more;
    *link = heir;
}

static uint64_t sum_of(const struct node *node, uint64_t sum)
{
    if (node == NULL)
        return sum;
    sum = sum_of(node->less, sum);
    sum = stir(sum, node->key + node->count);
    return sum_of(node->more, sum);
}

void prepare(void) {}

uint64_t work(unsigned passes)
{
    uint64_t sum = 0;
    for (unsigned pass = 0; pass < passes; pass++) {
        struct node *root = NULL;
        uint64_t start = 9 + pass, seed = start;
        used = 0;
        for (int i = 0; i < NODES; i++)
            insert(&root, noise(&seed) >> 44);
        uint64_t found = 0;
        for (uint64_t key = 0; key < 1u << 20; key += 41)
            found += *place(&root, key) != NULL;
        seed = start;
        for (int i = 0; i < NODES; i++) {
            uint64_t key = noise(&seed) >> 44;
            if (i % 2 == 0)
                take_out(&root, key);
        }
        sum = sum_of(root, stir(sum, found));
    }
    return sum;
}
