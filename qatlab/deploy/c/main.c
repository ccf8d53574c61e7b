static int wrong(const char *what, const char *file)
{
    fprintf(stderr, "%s%s\n", file, what);
    return EXIT_FAILURE;
}

static void print_result(int32_t class_index, const qatlab_number *outputs, int with_outputs)
{
    printf("%ld\t%s", (long)class_index, class_names[class_index]);
    for (int32_t k = 0; with_outputs && k < QATLAB_CLASSES; ++k) {
        printf("\t%.17g", (double)outputs[k] * QATLAB_OUTPUT_UNIT);
    }
    putchar('\n');
}

/* Returns how often to run, 0 for a word that is no such number. */
static long times_of(const char *word)
{
    char *end = NULL;
    const long times = strtol(word, &end, 10);
    return end == word || *end != '\0' || times < 1 || times > 1000000000 ? 0 : times;
}

int main(int argc, char **argv)
{
    static uint8_t image[QATLAB_IMAGE_BYTES];
    static qatlab_number outputs[QATLAB_CLASSES];
    static const char usage[] = "usage: PROGRAM [--outputs] [--bench TIMES] FILE, "
                                "where FILE holds images, one behind the other, as bytes.";
    const char *name = NULL;
    int with_outputs = 0;
    long times = 0;

    for (int i = 1; i < argc; ++i) {
        if (strcmp(argv[i], "--outputs") == 0) {
            with_outputs = 1;
        } else if (strcmp(argv[i], "--bench") == 0 && i + 1 < argc) {
            times = times_of(argv[++i]);
            if (times == 0) {
                return wrong(": --bench takes a whole number, 1 to 1000000000.", argv[i]);
            }
        } else if (name == NULL && argv[i][0] != '-') {
            name = argv[i];
        } else {
            return wrong(usage, "");
        }
    }
    if (name == NULL) {
        return wrong(usage, "");
    }
    FILE *file = fopen(name, "rb");
    if (file == NULL) {
        return wrong(" cannot be read.", name);
    }
    const int first = fgetc(file); /* a folder may be opened, but not read */
    if (first == EOF && ferror(file)) {
        fclose(file);
        return wrong(" cannot be read.", name);
    }
    ungetc(first, file);
    if (fseek(file, 0, SEEK_END) == 0) { /* a pipe has no end yet */
        const long size = ftell(file);
        rewind(file);
        if (size <= 0 || size % QATLAB_IMAGE_BYTES != 0) {
            fclose(file);
            fprintf(stderr, "%s holds %ld bytes, where each image takes %ld.\n", name, size,
                    (long)QATLAB_IMAGE_BYTES);
            return EXIT_FAILURE;
        }
    }
    size_t read = fread(image, 1, sizeof image, file);
    if (times > 0 && read == sizeof image) {
        volatile int32_t seen = 0; /* so that nothing is left out */
        const clock_t start = clock();
        for (long i = 0; i < times; ++i) {
            seen = qatlab_infer(image, outputs);
        }
        const double seconds = (double)(clock() - start) / (double)CLOCKS_PER_SEC;
        printf("%.3f microseconds for each image, which is of class %s\n",
               1e6 * seconds / (double)times, class_names[seen]);
        read = 0;
    }
    while (read == sizeof image) {
        print_result(qatlab_infer(image, outputs), outputs, with_outputs);
        read = fread(image, 1, sizeof image, file);
    }
    const int failed = ferror(file);
    fclose(file);
    if (failed || read != 0) {
        return wrong(failed ? " cannot be read." : " ends within an image.", name);
    }
    return fflush(stdout) == 0 ? EXIT_SUCCESS : wrong("the results cannot be written.", "");
}
