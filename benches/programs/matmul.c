/* Products of matrices of doubles. Every bit of the result counts: peers may not round differently. */
#include "bench.h"

#include <string.h>

const char NAME[] = "matmul";
const unsigned PASSES = 320;

#define N 128

static double a[N][N], b[N][N], c[N][N];

static void multiply(void)
{
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            double sum = 0;
            for (int k = 0; k < N; k++)
                sum += a[i][k] * b[k][j];
            c[i][j] = sum;
        }
}

void prepare(void)
{
    uint64_t seed = 5;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = (double)(noise(&seed) >> 40) / 3e7 - 0.25;
            b[i][j] = (double)(noise(&seed) >> 40) / 3e7 - 0.25;
        }
}

uint64_t work(unsigned passes)
{
    uint64_t sum = 0;
    for (unsigned pass = 0; pass < passes; pass++) {
        a[0][0] = 1.0 / (pass + 3);
        multiply();
        for (int i = 0; i < N; i++) {
            uint64_t bits;
            memcpy(&bits, &c[i][(i + (int)pass) % N], sizeof bits);
            sum = stir(sum, bits);
        }
    }
    return sum;
}
