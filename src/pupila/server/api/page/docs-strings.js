// The sentences of the page that shows the API.

export const DOCS = {
  en: {
    "docs.title": "This server's API",
    "docs.text": "Every path can be tried here. For programs:",
    "docs.back": "Back to the pictures",
    "docs.waiting": "Asking the server …",
    "docs.parameters": "Parameters",
    "docs.curl": "From a terminal",
    "docs.try": "Try it",
    "docs.send": "Send",
    "docs.pictures": "Pictures",
  },
  "pt-BR": {
    "docs.title": "A API deste servidor",
    "docs.text": "Todo caminho pode ser experimentado aqui. Para programas:",
    "docs.back": "Voltar às imagens",
    "docs.waiting": "Perguntando ao servidor …",
    "docs.parameters": "Parâmetros",
    "docs.curl": "No terminal",
    "docs.try": "Experimente",
    "docs.send": "Enviar",
    "docs.pictures": "Imagens",
  },
};
