/* Calls through tables of functions, as methods of objects are called: targets that are hard to foresee. */
#include "bench.h"

const char NAME[] = "vcall";
const unsigned PASSES = 5500;

#define OBJECTS 4096

struct object;

struct methods {
    uint64_t (*turn)(struct object *self, uint64_t x);
    uint64_t (*value)(const struct object *self);
};

struct object {
    const struct methods *methods;
    uint64_t a, b;
};

static struct object objects[OBJECTS];
static struct object *order[OBJECTS];

static uint64_t turn_add(struct object *o, uint64_t x) { return o->a += x; }
static uint64_t turn_xor(struct object *o, uint64_t x) { return o->a ^= x + o->b; }
static uint64_t turn_mul(struct object *o, uint64_t x) { return o->a = o->a * 5 + x; }
static uint64_t turn_swap(struct object *o, uint64_t x)
{
    uint64_t old = o->a;
    o->a = o->b + x;
    return o->b = old;
}
static uint64_t value_first(const struct object *o) { return o->a; }
static uint64_t value_both(const struct object *o) { return o->a - o->b; }

static const struct methods kinds[] = {
    {turn_add, value_first}, {turn_xor, value_first}, {turn_mul, value_first}, {turn_swap, value_first},
    {turn_add, value_both},  {turn_xor, value_both},  {turn_mul, value_both},  {turn_swap, value_both},
};

void prepare(void)
{
    uint64_t seed = 7;
    for (int i = 0; i < OBJECTS; i++)
        order[i] = &objects[i];
    for (int i = OBJECTS - 1; i > 0; i--) {
        int j = (int)((noise(&seed) >> 33) % (uint64_t)(i + 1));
        struct object *swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
}

uint64_t work(unsigned passes)
{
    uint64_t sum = 0, seed = 8;
    for (int i = 0; i < OBJECTS; i++) {
        uint64_t draw = noise(&seed);
        objects[i] = (struct object){&kinds[draw >> 61], draw, draw >> 7};
    }
    for (unsigned pass = 0; pass < passes; pass++)
        for (int i = 0; i < OBJECTS; i++) {
            struct object *o = order[i];
            sum += o->methods->turn(o, sum);
            sum ^= o->methods->value(o);
        }
    return sum;
}
