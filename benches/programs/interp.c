/* An interpreter of a small register machine: one indirect jump for each of its instructions. */
#include "bench.h"

const char NAME[] = "interp";
const unsigned PASSES = 140;

enum op { LOAD_CONST, MOVE, ADD, SUB, MUL, XOR, AND, SHIFT_LEFT, SHIFT_RIGHT, LOAD, STORE, JUMP_LESS, JUMP_ZERO, JUMP, HALT };

struct insn {
    uint8_t op, a, b, c;
    int32_t imm;
};

/* For i from 0 to 99,999: x = xorshift(x); cells[x & 255] += i; every odd x adds a product to the sum. */
enum { I, LIMIT, X, T, ONE, MASK, CELL, SUM, ZERO };
static const struct insn code[] = {
    {LOAD_CONST, I, 0, 0, 0},
    {LOAD_CONST, LIMIT, 0, 0, 100000},
    {LOAD_CONST, ONE, 0, 0, 1},
    {LOAD_CONST, MASK, 0, 0, 255},
    {LOAD_CONST, SUM, 0, 0, 0},
    {SHIFT_LEFT, T, X, 0, 13}, /* 5: the loop */
    {XOR, X, X, T, 0},
    {SHIFT_RIGHT, T, X, 0, 7},
    {XOR, X, X, T, 0},
    {SHIFT_LEFT, T, X, 0, 17},
    {XOR, X, X, T, 0},
    {AND, CELL, X, MASK, 0},
    {LOAD, T, CELL, 0, 0},
    {ADD, T, T, I, 0},
    {STORE, T, CELL, 0, 0},
    {AND, T, X, ONE, 0},
    {JUMP_ZERO, T, 0, 0, 20},
    {MUL, T, X, I, 0},
    {SUB, SUM, SUM, T, 0},
    {JUMP, 0, 0, 0, 21},
    {MOVE, T, SUM, 0, 0},
    {ADD, I, I, ONE, 0},
    {JUMP_LESS, I, LIMIT, 0, 5},
    {HALT, 0, 0, 0, 0},
};

static uint64_t cells[256];

static uint64_t run(const struct insn *program, uint64_t x)
{
    uint64_t r[16] = {0};
    const struct insn *at = program;
    r[X] = x;
    for (;; at++) {
        switch ((enum op)at->op) {
        case LOAD_CONST: r[at->a] = (uint64_t)(int64_t)at->imm; break;
        case MOVE: r[at->a] = r[at->b]; break;
        case ADD: r[at->a] = r[at->b] + r[at->c]; break;
        case SUB: r[at->a] = r[at->b] - r[at->c]; break;
        case MUL: r[at->a] = r[at->b] * r[at->c]; break;
        case XOR: r[at->a] = r[at->b] ^ r[at->c]; break;
        case AND: r[at->a] = r[at->b] & r[at->c]; break;
        case SHIFT_LEFT: r[at->a] = r[at->b] << at->imm; break;
        case SHIFT_RIGHT: r[at->a] = r[at->b] >> at->imm; break;
        case LOAD: r[at->a] = cells[r[at->b] & 255]; break;
        case STORE: cells[r[at->b] & 255] = r[at->a]; break;
        case JUMP_LESS:
            if (r[at->a] < r[at->b])
                at = program + at->imm - 1;
            break;
        case JUMP_ZERO:
            if (r[at->a] == 0)
                at = program + at->imm - 1;
            break;
        case JUMP: at = program + at->imm - 1; break;
        case HALT: return r[SUM];
        }
    }
}

void prepare(void) {}

uint64_t work(unsigned passes)
{
    uint64_t sum = 0;
    for (int i = 0; i < 256; i++)
        cells[i] = 0;
    for (unsigned pass = 0; pass < passes; pass++)
        sum = stir(sum, run(code, pass + 88172645463325252ull));
    for (int i = 0; i < 256; i++)
        sum = stir(sum, cells[i]);
    return sum;
}
