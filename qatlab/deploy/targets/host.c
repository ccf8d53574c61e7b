/* Runs a program on images of a file: reads images.raw, writes the outputs of each to
 * outputs.raw. */
#include <stdio.h>

#define QATLAB_NO_MAIN
#include "model.c"

int main(void)
{
    static uint8_t image[QATLAB_IMAGE_BYTES];
    static qatlab_number outputs[QATLAB_CLASSES];
    FILE *images = fopen("images.raw", "rb"), *results = fopen("outputs.raw", "wb");
    if (images == NULL || results == NULL) {
        return 1;
    }
    while (fread(image, 1, sizeof image, images) == sizeof image) {
        qatlab_infer(image, outputs);
        if (fwrite(outputs, 1, sizeof outputs, results) != sizeof outputs) {
            return 1;
        }
    }
    return fclose(results) != 0;
}
