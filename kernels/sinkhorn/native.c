// Sinkhorn-Knopp on CPU: forward and exact backward, a block of matrices at a time, everything but input and output in
// the first-level cache. The mathematics is that of reference.py. Compiled per number of streams, -DSTREAMS=n.
//
// A matrix is n x n, row-major [out, in]; `columns` says that columns are normalised last, which is the transposed
// problem. M = diag(u) M_0 diag(v) with M_0 = softmax over columns + eps.

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#define LANES 16
#define N STREAMS

typedef float lanes[LANES];

#define EACH_LANE for (int l = 0; l < LANES; l++)

// softmax over each column of `count` <= LANES matrices; unused lanes hold zeros. Returns the widest spread of logits.
static float load_softmax(const float *logits, int64_t count, int columns, lanes softmax[N][N]) {
    lanes high, low;
    EACH_LANE high[l] = -FLT_MAX, low[l] = FLT_MAX;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            int at = columns ? j * N + i : i * N + j;
            EACH_LANE softmax[i][j][l] = l < count ? logits[l * N * N + at] : 0.0f;
            EACH_LANE high[l] = fmaxf(high[l], softmax[i][j][l]), low[l] = fminf(low[l], softmax[i][j][l]);
        }
    float spread = 0.0f;
    EACH_LANE spread = high[l] - low[l] <= spread ? spread : high[l] - low[l];  // a NaN passes through
    for (int j = 0; j < N; j++) {
        lanes largest, sum;
        EACH_LANE largest[l] = softmax[0][j][l], sum[l] = 0.0f;
        for (int i = 1; i < N; i++) EACH_LANE largest[l] = fmaxf(largest[l], softmax[i][j][l]);
        for (int i = 0; i < N; i++) {
            EACH_LANE softmax[i][j][l] = expf(softmax[i][j][l] - largest[l]);
            EACH_LANE sum[l] += softmax[i][j][l];
        }
        for (int i = 0; i < N; i++) EACH_LANE softmax[i][j][l] /= sum[l];
    }
    return spread;
}

// u and v of every step, [steps][N]
static void scale(const lanes start[N][N], int steps, float eps, lanes *u, lanes *v) {
    for (int k = 0; k < N; k++) EACH_LANE v[k][l] = 1.0f;
    for (int t = 0; t < steps; t++) {
        const lanes *u_old = u + (t - 1) * N, *v_old = v + (t - 1) * N;
        for (int j = 0; j < N && t > 0; j++) {
            lanes sum = {0};
            for (int i = 0; i < N; i++) EACH_LANE sum[l] += start[i][j][l] * u_old[i][l];
            if (eps == 0.0f) EACH_LANE v[t * N + j][l] = 1.0f / sum[l];
            else EACH_LANE v[t * N + j][l] = v_old[j][l] / (v_old[j][l] * sum[l] + eps);
        }
        for (int i = 0; i < N; i++) {
            lanes sum = {0};
            for (int j = 0; j < N; j++) EACH_LANE sum[l] += start[i][j][l] * v[t * N + j][l];
            if (eps == 0.0f) EACH_LANE u[t * N + i][l] = 1.0f / sum[l];
            else if (t == 0) EACH_LANE u[i][l] = 1.0f / (sum[l] + eps);
            else EACH_LANE u[t * N + i][l] = u_old[i][l] / (u_old[i][l] * sum[l] + eps);
        }
    }
}

// matrices, out: [count, N, N]. Returns the widest spread of logits inside a matrix, or -1 without memory.
float sinkhorn_forward(const float *logits, float *out, int64_t count, int steps, float eps, int columns) {
    lanes *scalings = malloc(sizeof(lanes) * 2 * N * steps);
    if (!scalings) return -1.0f;
    lanes *u = scalings, *v = scalings + N * steps, *u_last = u + N * (steps - 1), *v_last = v + N * (steps - 1);
    float widest = 0.0f;
    for (int64_t block = 0; block < count; block += LANES) {
        int64_t filled = count - block < LANES ? count - block : LANES;
        lanes start[N][N];
        float spread = load_softmax(logits + block * N * N, filled, columns, start);
        widest = spread <= widest ? widest : spread;
        for (int i = 0; i < N; i++) for (int j = 0; j < N; j++) EACH_LANE start[i][j][l] += eps;
        scale((const lanes(*)[N])start, steps, eps, u, v);
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                int at = columns ? j * N + i : i * N + j;
                lanes value;
                EACH_LANE value[l] = u_last[i][l] * start[i][j][l] * v_last[j][l];
                for (int l = 0; l < filled; l++) out[(block + l) * N * N + at] = value[l];
            }
    }
    free(scalings);
    return widest;
}

// gradient: of the result; d_logits: of the logits; both [count, N, N]. Returns 0, or -1 without memory.
float sinkhorn_backward(const float *logits, const float *gradient, float *d_logits, int64_t count, int steps,
                        float eps, int columns) {
    lanes *scalings = malloc(sizeof(lanes) * 2 * N * steps);
    if (!scalings) return -1.0f;
    lanes *u = scalings, *v = scalings + N * steps;
    for (int64_t block = 0; block < count; block += LANES) {
        int64_t filled = count - block < LANES ? count - block : LANES;
        lanes softmax[N][N], start[N][N], d_start[N][N], a[N] = {0}, b[N] = {0};  // a, b: of log u and log v
        load_softmax(logits + block * N * N, filled, columns, softmax);
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) EACH_LANE start[i][j][l] = softmax[i][j][l] + eps;
        scale((const lanes(*)[N])start, steps, eps, u, v);
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                int at = columns ? j * N + i : i * N + j;
                EACH_LANE {
                    float g = l < filled ? gradient[(block + l) * N * N + at] : 0.0f;
                    d_start[i][j][l] = g * u[(steps - 1) * N + i][l] * v[(steps - 1) * N + j][l];
                    a[i][l] += d_start[i][j][l] * start[i][j][l];
                    b[j][l] += d_start[i][j][l] * start[i][j][l];
                }
            }
        for (int t = steps - 1; t >= 0; t--) {
            const lanes *u_t = u + t * N, *v_t = v + t * N, *u_old = u_t - N;
            for (int i = 0; i < N; i++) {
                lanes d_row, sum = {0};
                EACH_LANE d_row[l] = -a[i][l] * u_t[i][l];
                for (int j = 0; j < N; j++) EACH_LANE {
                    d_start[i][j][l] += d_row[l] * v_t[j][l];
                    b[j][l] += v_t[j][l] * start[i][j][l] * d_row[l];
                    sum[l] += start[i][j][l] * v_t[j][l];
                }
                EACH_LANE a[i][l] = eps == 0.0f ? 0.0f : a[i][l] * (1.0f - u_t[i][l] * sum[l]);
            }
            if (t == 0) break;  // the first column normalisation is the softmax itself
            for (int j = 0; j < N; j++) {
                lanes d_column, sum = {0};
                EACH_LANE d_column[l] = -b[j][l] * v_t[j][l];
                for (int i = 0; i < N; i++) EACH_LANE {
                    d_start[i][j][l] += u_old[i][l] * d_column[l];
                    a[i][l] += u_old[i][l] * start[i][j][l] * d_column[l];
                    sum[l] += start[i][j][l] * u_old[i][l];
                }
                EACH_LANE b[j][l] = eps == 0.0f ? 0.0f : b[j][l] * (1.0f - v_t[j][l] * sum[l]);
            }
        }
        for (int j = 0; j < N; j++) {
            lanes sum = {0};
            for (int i = 0; i < N; i++) EACH_LANE sum[l] += softmax[i][j][l] * d_start[i][j][l];
            for (int i = 0; i < N; i++) {
                int at = columns ? j * N + i : i * N + j;
                lanes value;
                EACH_LANE value[l] = softmax[i][j][l] * (d_start[i][j][l] - sum[l]);
                for (int l = 0; l < filled; l++) d_logits[(block + l) * N * N + at] = value[l];
            }
        }
    }
    free(scalings);
    return 0.0f;
}
